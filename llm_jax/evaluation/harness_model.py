"""A model as lm-evaluation-harness sees one: log-probabilities and texts, by the batching engine.

What it makes of requests is what the harness' own `hf` model does, so that the numbers are comparable.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from llm_jax.errors import ConfigError
from llm_jax.inference import Engine, Request, SamplingParams, TextStream, TokenEvent, TokenLogprob, prepare_request
from llm_jax.model import Model, ModelDtype
from llm_jax.tokenizers import Tokenizer, chat_template_source, fingerprint, render_chat

DEFAULT_NEW_TOKENS = 256  # the harness' own


class HarnessModel(TemplateLM):
    """The model of a directory, run by an engine.

    Args:
        dtype: of the weights, as an engine takes it.
        max_batch: requests that run at a time; the engine's own unless given.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, *, dtype: ModelDtype = "float32", max_batch: int | None = None
    ) -> None:
        super().__init__()
        if tokenizer.eos_token_id is None and tokenizer.bos_token_id is None:
            raise ConfigError("Tasks need a tokenizer with a BOS or an EOS, which stands before an empty context.")
        self.tokenizer = tokenizer
        self._engine = Engine(model, dtype=dtype, max_batch=max_batch)
        # A request has a token to generate, which is behind all that are scored.
        self.max_length = model.config.max_seq_len - 2

    @property
    def eot_token_id(self) -> int:
        eos, bos = self.tokenizer.eos_token_id, self.tokenizer.bos_token_id
        found = bos if eos is None else eos
        assert found is not None
        return found

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return fingerprint(self.tokenizer)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return chat_template_source(self.tokenizer) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return render_chat(self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **ignored: Any) -> list[int]:
        bos = self.tokenizer.special_tokens.get("bos_token")
        begins_with_bos = bos is not None and string.startswith(bos)
        adds = not begins_with_bos if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode_with_special_tokens(string) if adds else self.tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **ignored: Any
    ) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether each of its tokens is the most likely one) of each request."""
        scored = SamplingParams(max_new_tokens=1, temperature=0, prompt_logprobs=1)
        prompts = [tuple(context + continuation)[-self.max_length - 1 :] for _, context, continuation in requests]
        events = self._run(Request(prompt_ids=prompt_ids, sampling=scored) for prompt_ids in prompts)
        results = []
        for (_, _, continuation), found in zip(requests, events, strict=True):
            tokens: tuple[TokenLogprob, ...] = found[0].prompt[-len(continuation) :]
            is_greedy = all(token.top[0][0] == token.token for token in tokens)
            results.append((sum(token.logprob for token in tokens), is_greedy))
        return results

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows that do not overlap."""
        windows = [
            (number, make_disjoint_window(window))
            for number, request in enumerate(requests)
            for window in get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
        ]
        sums = [0.0] * len(requests)
        scores = self._loglikelihood_tokens([(None, *window) for _, window in windows])
        for (number, _), (score, _) in zip(windows, scores, strict=True):
            sums[number] += score
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text behind each context, up to a stop string or the number of tokens that the task sets."""
        prepared, streams = list[Request](), list[TextStream]()
        for context, given in (request.args for request in requests):
            settings = normalize_gen_kwargs(given, DEFAULT_NEW_TOKENS)
            sampling = SamplingParams(
                max_new_tokens=settings["max_gen_toks"],
                temperature=settings.get("temperature") or 0.0,
                top_p=settings.get("top_p"),
                top_k=settings.get("top_k"),
                seed=0,
            )
            ids = self.tok_encode(context)
            stop = [text for text in settings["until"] if text]
            prepared.append(
                prepare_request(self._engine.config, self.tokenizer, ids, sampling, truncate=True, stop=stop)
            )
            streams.append(TextStream(self.tokenizer, stop, prompt_ids=ids))
        return ["".join(texts) for texts in self._run(prepared, streams)]

    def _run(self, requests: Iterable[Request], streams: Sequence[TextStream] | None = None) -> list[list[Any]]:
        """The events of each request, or the texts that a stream makes of them."""
        found: list[list[Any]] = []

        def on_event(number: int, event: TokenEvent | Exception) -> None:
            if isinstance(event, Exception):
                raise event
            if streams is None:
                found[number].append(event)
                return
            if number in ended:
                return
            piece = streams[number].push(event)
            found[number].append(piece.text)
            if piece.finish_reason is not None:
                ended.add(number)
                if event.finish is None:
                    stopped.append(ids[number])

        ended: set[int] = set()
        stopped: list[int] = []
        ids = []
        for number, request in enumerate(requests):
            found.append([])
            ids.append(self._engine.submit(request, partial(on_event, number)))
        while self._engine.step():
            while stopped:
                self._engine.cancel(stopped.pop())
        return found
