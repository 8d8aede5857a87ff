"""Records -> token ids, and which of them a model learns to predict."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np

from llm_jax.data.messages import Conversation, FieldError
from llm_jax.data.records import Answered, Completion, Form, Preference, Record
from llm_jax.errors import RequestError
from llm_jax.tokenizers import (
    Span,
    Tokenizer,
    describe_tools,
    encode_answers,
    find_answers,
    render_chat,
    renders_tools,
)

_AT_ONCE = 1 << 20  # characters that are tokenised at once
SEPARATOR = "\n\n"  # ends a document where the tokenizer has no token for it


@dataclass(frozen=True)
class Encoded:
    """A sequence of tokens.

    Attributes:
        ids: of the tokens.
        learnt: for each whether a model learns to predict it: 1, or 0 for one that is given. None: all are learnt.
        size: characters of its text.
    """

    ids: Sequence[int] | np.ndarray
    learnt: Sequence[int] | None
    size: int


def encode_record(tokenizer: Tokenizer, record: Record, form: Form) -> tuple[Encoded, ...]:
    """One sequence; of a preference two, the chosen one first; of answers several, where the chat template writes
    earlier ones in another way than they are asked for.

    Raises:
        FieldError: the chat template refuses the messages.
        UnknownToken: the tokenizer has no token for a part of the text.
    """
    if isinstance(record, Preference):
        return _encode_only(tokenizer, record.chosen), _encode_only(tokenizer, record.rejected)
    if isinstance(record, str):
        return (next(encode_texts(tokenizer, [record])),)
    encoded = _encode(tokenizer, record)
    return (Encoded(encoded[-1].ids, None, encoded[-1].size),) if form == "text" else encoded


def encode_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Encoded]:
    """Documents, each with the beginning that its tokenizer gives to a text, and its end; all of it is learnt."""
    first, last = beginning(tokenizer), ending(tokenizer)
    for some in _batches(texts):
        slices = [_slices(text) for text in some]
        encoded = iter(tokenizer.encode_batch([piece for pieces in slices for piece in pieces]))
        for text, pieces in zip(some, slices, strict=True):
            ids = np.concatenate([np.asarray(part, np.int32) for part in (first, *islice(encoded, len(pieces)), last)])
            yield Encoded(ids, None, len(text))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """About _AT_ONCE characters each, so that what the tokenizer makes of them takes little memory."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _slices(text: str) -> list[str]:
    """The text in pieces of _AT_ONCE characters at most, where it can be cut behind a line's end or before a space.

    Pre-tokenizers separate words there, so that the pieces have the tokens of the whole.
    """
    slices = []
    while len(text) > _AT_ONCE:
        cut = max(text.rfind("\n", _AT_ONCE // 2, _AT_ONCE) + 1, 0) or text.rfind(" ", 1, _AT_ONCE)
        cut = cut if cut > 0 else _AT_ONCE
        slices.append(text[:cut])
        text = text[cut:]
    return [*slices, text]


def beginning(tokenizer: Tokenizer) -> list[int]:
    """The BOS, where the tokenizer's maker puts one before every text."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer.encode_with_special_tokens("")[:1] == [bos] else []


def ending(tokenizer: Tokenizer) -> list[int]:
    """The EOS, or a blank line where there is none."""
    eos = tokenizer.eos_token_id
    return tokenizer.encode(SEPARATOR) if eos is None else [eos]


def _encode(tokenizer: Tokenizer, record: Answered) -> tuple[Encoded, ...]:
    if isinstance(record, Conversation):
        return _encode_conversation(tokenizer, record)
    return (_encode_pair(tokenizer, record),)


def _encode_only(tokenizer: Tokenizer, record: Answered) -> Encoded:
    encoded = _encode(tokenizer, record)
    if len(encoded) > 1:
        raise FieldError(
            "the chat template writes earlier answers in another way where more messages follow, and a preference is "
            "between two single answers: put the earlier ones into prompt."
        )
    return encoded[0]


def _encode_pair(tokenizer: Tokenizer, record: Completion) -> Encoded:
    text, begin = record.prompt + record.completion, len(record.prompt)
    ids, learnt = encode_answers(tokenizer, text, [(begin, len(text))])
    first, last = beginning(tokenizer), ending(tokenizer)
    marks = [*(0 for _ in first), *map(int, learnt), *(1 for _ in last)]
    return Encoded([*first, *ids, *last], marks, len(text))


def _encode_conversation(tokenizer: Tokenizer, record: Conversation) -> tuple[Encoded, ...]:
    messages, tools = list(record.messages), list(record.tools)
    prompt = messages[: record.given]
    if not renders_tools(tokenizer) and (tools or any("tool_calls" in message for message in messages)):
        messages, prompt, tools = describe_tools(messages, tools), describe_tools(prompt, tools), []
    try:
        texts = find_answers(tokenizer, messages, tools=tools or None, given=record.given)
        asked = render_chat(tokenizer, prompt, tools=tools or None) if record.given else ""
    except RequestError as error:
        raise FieldError(str(error)) from None
    encoded = []
    for text, answers in texts:
        if not text.startswith(asked):
            raise FieldError("the chat template writes the prompt in another way where an answer follows it.")
        behind = [(max(begin, len(asked)), end) for begin, end in answers if end > len(asked)]
        encoded.append(_encode_rendered(tokenizer, text, behind))
    return tuple(encoded)


def _encode_rendered(tokenizer: Tokenizer, text: str, answers: Sequence[Span]) -> Encoded:
    ids, learnt = encode_answers(tokenizer, text, answers)
    if _lacks_end(tokenizer, ids, learnt):
        ids, learnt = [*ids, *ending(tokenizer)], [*learnt, *(True for _ in ending(tokenizer))]
    return Encoded(ids, list(map(int, learnt)), len(text))


def _lacks_end(tokenizer: Tokenizer, ids: list[int], learnt: list[bool]) -> bool:
    """Whether the last answer ends the conversation without a special token, as in formats of plain text."""
    special = set(tokenizer.hidden_tokens.values())
    after = sum(1 for _ in takewhile(lambda is_learnt: not is_learnt, reversed(learnt)))
    answer = sum(1 for _ in takewhile(bool, reversed(learnt[: len(ids) - after])))
    return bool(answer) and special.isdisjoint(ids[len(ids) - after - answer :])
