"""Grammars compiled for one tokenizer, and the constraints that they put on requests."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_jax.errors import ConfigError, InferenceError, RequestError, TokenizerError
from llm_jax.inference.constraints.json_schema import check_schema, check_text, narrow
from llm_jax.inference.constraints.tool_calls import calls_grammar

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

    from llm_jax.tokenizers import CallSyntax, CharacterTokenizer, Tokenizer

# No whitespace between JSON's tokens: nothing else would bound it. And one spelling per string: \u0061 is an "a" too,
# so that a key "a" could come again under another name, with a value that its schema does not allow.
_JSON_OPTIONS: "JsonCompileOptions" = {"whitespace_flexible": False, "json_allowed_escapes": 'nrbtf\\"'}


class Grammars:
    """Makes constraints for the requests of one model. Making it takes up to a second; keep it.

    Args:
        vocab_size: the model's, which may differ from the tokenizer's.
        end_ids: the tokens that end a completion. The end is allowed where the grammar is complete, and there alone.

    Raises:
        ConfigError: llguidance is not installed, or there is no end token.
        TokenizerError: llguidance cannot read the tokenizer.

    >>> from llm_jax.tokenizers import CharacterTokenizer
    >>> grammars = Grammars(CharacterTokenizer(["abc"]), vocab_size=4, end_ids=[3])
    >>> constraint = grammars.regex("[ab]c")
    >>> [constraint.mask(ids).tolist() for ids in ([], [0], [0, 2])]
    [[3], [4], [8]]
    """

    def __init__(self, tokenizer: "Tokenizer", *, vocab_size: int, end_ids: Collection[int]) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise ConfigError("Grammars need the package llguidance: install the extra 'constraints'.") from error
        self._matcher = llguidance.LLMatcher
        self._vocab_size = vocab_size
        self._end_ids = sorted(end for end in end_ids if 0 <= end < vocab_size)
        if not self._end_ids:
            raise ConfigError(
                f"Grammars need an end token, so that a completion can end; got end ids {sorted(end_ids)} for a "
                f"vocabulary of {vocab_size}."
            )
        self._tokenizer = _ll_tokenizer(tokenizer, self._end_ids)
        special = filter(self._tokenizer.is_special_token, range(self._tokenizer.vocab_size))
        written = {self._tokenizer.decode_str([token]): token for token in special}
        self._special_ids = {text: token for text, token in written.items() if text}
        self._special_tokens = frozenset(self._special_ids)

    def json_schema(self, schema: dict[str, Any]) -> "GrammarConstraint":
        """JSON without whitespace that a schema accepts. Objects have no properties but those that it names, if any.

        Raises:
            RequestError: it is no schema, or it has a feature that could not be held to; the message names it.
        """
        check_schema(schema, self._special_tokens)
        grammar = self._matcher.grammar_from_json_schema(json.dumps(narrow(schema)), overrides=_JSON_OPTIONS)
        return self._constraint(grammar, "JSON schema", "json_schema")

    def json_object(self) -> "GrammarConstraint":
        """Any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, pattern: str) -> "GrammarConstraint":
        """Text that a regular expression matches as a whole.

        Raises:
            RequestError: the pattern cannot be read, or has look-arounds or word boundaries.
        """
        check_text(pattern, self._special_tokens, "The regular expression", "regex")
        return self._constraint(self._matcher.grammar_from_regex(pattern), "regular expression", "regex")

    def choice(self, texts: Sequence[str]) -> "GrammarConstraint":
        """One of these texts.

        Raises:
            RequestError: there are none, or one of them is empty.
        """
        if not texts or not all(texts):
            raise RequestError(f"choice is {list(texts)}; give at least one text, and none that is empty.", "choice")
        check_text(list(texts), self._special_tokens, "The choice", "choice")
        return self.lark("start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts))

    def lark(self, grammar: str) -> "GrammarConstraint":
        """Text of a grammar in llguidance's dialect of Lark; it begins with the rule `start`.

        Raises:
            RequestError: the grammar cannot be read.
        """
        return self._constraint(self._matcher.grammar_from_lark(grammar), "grammar", "grammar")

    def tool_calls(
        self,
        syntax: "CallSyntax",
        tools: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        is_required: bool = False,
        is_parallel: bool = True,
        schema: dict[str, Any] | None = None,
    ) -> "GrammarConstraint":
        """Tool calls whose arguments follow their schemas, or text unless `is_required`.

        Args:
            tools: the name of each, and the JSON schema of its arguments.
            schema: of a text without calls; any text unless given.

        Raises:
            RequestError: a schema has a feature that could not be held to; the message names it.
        """
        closed = []
        for name, parameters in tools:
            try:
                check_schema({"type": "object", **parameters}, self._special_tokens)
            except RequestError as error:
                raise RequestError(f"Tool {name!r}: {error}", "tools") from None
            closed.append((name, narrow({"type": "object", **parameters})))
        text = None
        if schema is not None:
            check_schema(schema, self._special_tokens)
            text = "%json " + json.dumps(narrow(schema) | {"x-guidance": _JSON_OPTIONS})
        grammar = calls_grammar(
            syntax, closed, self._special_ids, is_required=is_required, is_parallel=is_parallel, text=text
        )
        return self._constraint(self._matcher.grammar_from_lark(grammar), "tools", "tools")

    def _constraint(self, grammar: str, what: str, param: str) -> "GrammarConstraint":
        matcher = self._matcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise RequestError(f"The {what} cannot be used: {_reason(matcher.get_error())}.", param)
        return GrammarConstraint(matcher, self._tokenizer.vocab_size, self._vocab_size, self._end_ids)


class GrammarConstraint:
    """A `Constraint` of one request: the state of its grammar. Masks are made without Python's lock.

    Args:
        grammar_vocab_size: of the matcher's tokenizer; its masks have as many bits.
    """

    def __init__(
        self, matcher: "LLMatcher", grammar_vocab_size: int, vocab_size: int, end_ids: Collection[int]
    ) -> None:
        self._matcher = matcher
        self._consumed: list[int] = []
        self._end_ids = frozenset(end_ids)
        words, grammar_words = -(-vocab_size // 32), -(-grammar_vocab_size // 32)
        words_W = np.zeros(max(words, grammar_words), np.uint32)
        self._grammar_W, self._mask_W = words_W[:grammar_words], words_W[:words]  # the matcher's, and the model's
        self._end_W = np.zeros(words, np.uint32)
        for end in end_ids:
            self._end_W[end // 32] |= np.uint32(1 << end % 32)

    def mask(self, generated: Sequence[int]) -> np.ndarray:
        """The tokens that may come next; the end tokens alone where the text is complete and cannot go on.

        Raises:
            InferenceError: a generated token is against the grammar, or the grammar outgrew llguidance's limits.
        """
        new = list(generated)
        if new[: len(self._consumed)] != self._consumed:
            self._matcher.reset()
            self._consumed = []
        for token in new[len(self._consumed) :]:
            if token in self._end_ids:
                return self._end_W.copy()
            self._matcher.consume_token(token)
            self._check()
            self._consumed.append(token)
        if self._matcher.is_stopped():
            return self._end_W.copy()
        self._matcher.unsafe_compute_mask_ptr(self._grammar_W.ctypes.data, self._grammar_W.nbytes)
        self._check()
        return self._mask_W.copy()

    def _check(self) -> None:
        # In its error state a matcher allows the end alone, which would look like a completion.
        if self._matcher.is_error():
            raise InferenceError(f"The grammar failed: {_reason(self._matcher.get_error())}.")


def _ll_tokenizer(tokenizer: "Tokenizer", end_ids: list[int]) -> "LLTokenizer":
    """The tokenizer as llguidance has it. Unnamed, end tokens other than the usual one are not recognised."""
    from llguidance import LLTokenizer, TokenizerWrapper

    from llm_jax.tokenizers import CharacterTokenizer, HFTokenizer

    try:
        if isinstance(tokenizer, HFTokenizer):
            # One more than the highest id; the library itself counts tokens, and ids may have gaps.
            size = max(tokenizer.vocab_size, end_ids[-1] + 1)
            return LLTokenizer(tokenizer.to_json(), n_vocab=size, eos_token=end_ids)
        if isinstance(tokenizer, CharacterTokenizer):
            return LLTokenizer(TokenizerWrapper(_Characters(tokenizer, end_ids)), eos_token=end_ids)
    except ValueError as error:
        raise TokenizerError(f"Grammars cannot be used with this tokenizer: {_reason(str(error))}.") from error
    raise TokenizerError(f"Grammars take a HFTokenizer or a CharacterTokenizer, not a {type(tokenizer).__name__}.")


class _Characters:
    """A character tokenizer with the attributes that llguidance reads."""

    bos_token_id = None

    def __init__(self, tokenizer: "CharacterTokenizer", end_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_ids[0]
        self.special_token_ids = sorted({*end_ids, tokenizer.stoi[tokenizer.pad_char]})
        self.tokens = [char.encode() for char in tokenizer.chars]
        for special in self.special_token_ids:
            self.tokens[special] = b"\xff" + self.tokens[special]  # how a special token is marked

    def __call__(self, text: bytes) -> list[int]:
        return [self._tokenizer.stoi[char] for char in text.decode() if char in self._tokenizer.stoi]


def _reason(message: str) -> str:
    """The line of llguidance's message that says why; others quote the grammar or its state."""
    lines = message.strip().splitlines() or ["no reason given"]
    reason = next((line for line in lines if line.startswith("error: ")), lines[0])
    return reason.removeprefix("error: ").rstrip(".")
