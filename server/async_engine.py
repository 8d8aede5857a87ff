"""The loaded model as the routes see it: prompts in, generations out, never more than the queue holds."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from jax.sharding import Mesh

from llm_jax.checkpoint import LoadedModel
from llm_jax.errors import LLMError, RequestError, TokenizerError
from llm_jax.inference import (
    ContextLengthExceeded,
    Engine,
    EngineStats,
    Request,
    SamplingParams,
    TextStream,
    prepare_request,
)
from llm_jax.tokenizers import Tokenizer
from server.chat_format import ChatFormat
from server.errors import ApiError, InvalidRequest, QueueFull
from server.generation import Deadlines, Generation
from server.metrics import Metrics
from server.schemas.base import DEFAULT_MAX_TOKENS, SamplingFields
from server.settings import Settings


class AsyncEngine:
    """An Engine in its thread, used from the event loop."""

    def __init__(
        self, loaded: LoadedModel, tokenizer: Tokenizer, settings: Settings, metrics: Metrics, mesh: Mesh | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.chat_format = ChatFormat.of(tokenizer)
        # The plain weights can go once the engine has packed its own.
        self._config, self._eos_ids = loaded.model.config, loaded.generation.eos_ids
        self._metrics = metrics
        self._engine = Engine(
            loaded.model, max_batch=settings.max_batch, max_len=settings.max_model_len, dtype=settings.dtype,
            kv_dtype=settings.kv_dtype, prefix_tokens=settings.prefix_cache, speculate=settings.speculate,
            mesh=mesh,
        )  # fmt: skip
        self._places = settings.max_batch + settings.max_queue
        self._deadlines = Deadlines(
            queue=settings.queue_timeout, first_token=settings.first_token_timeout, total=settings.request_timeout
        )
        self._generations: set[Generation] = set()

    def start(self) -> None:
        """Compiles what requests need and starts the engine's thread. Takes seconds."""
        self._engine.warmup()
        self._engine.start()

    def close(self) -> None:
        self._engine.close()

    @property
    def max_len(self) -> int:
        return self._engine.max_len

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    async def prepare(
        self, prompts: Sequence[str | Sequence[int]], body: SamplingFields, *, tenant: str
    ) -> list[Request]:
        """One request for each prompt, such as the engine will take.

        A body that sets no limit of tokens gets the default, or what room there is. What is kept of prompts is
        shared within a tenant only.

        Raises:
            InvalidRequest: a prompt or a setting is not one that this model can serve.
        """
        return await asyncio.to_thread(lambda: [self._prepare(prompt, body, tenant) for prompt in prompts])

    def _prepare(self, prompt: str | Sequence[int], body: SamplingFields, tenant: str) -> Request:
        try:
            ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            limit = body.token_limit or max(1, min(DEFAULT_MAX_TOKENS, self.max_len - len(ids)))
            sampling = SamplingParams(max_new_tokens=limit, stop_ids=self._eos_ids, **body.sampling())
            request = prepare_request(self._config, self.tokenizer, ids, sampling, truncate=False, max_len=self.max_len)
            self._engine.validate(request)
        except RequestError as error:
            raise _refusal(error, error.param or "prompt", body) from None
        except TokenizerError as error:
            raise _refusal(error, "prompt", body) from None
        return replace(request, salt=tenant)

    def generate(self, requests: Sequence[Request], *, stop: Sequence[str] = (), prefix: str = "") -> Generation:
        """Begins to generate for all requests, or for none.

        Args:
            stop: strings before which a text ends.
            prefix: is taken off the beginning of a text that has it.

        Raises:
            QueueFull: there are not that many places.
        """
        if len(requests) > self._places:
            raise InvalidRequest(f"{len(requests)} prompts are more than the {self._places} that this server queues.")
        taken = sum(generation.unfinished for generation in self._generations)
        if taken + len(requests) > self._places:
            self._metrics.rejections.labels("queue_full").inc()
            raise QueueFull(f"All {self._places} places are taken; try again in a moment.")
        generation = Generation(self._engine, self._deadlines, on_close=self._generations.discard)
        self._generations.add(generation)
        for request in requests:
            text = TextStream(self.tokenizer, stop, prompt_ids=request.prompt_ids)
            generation.submit(request, text, prefix, self._metrics)
        return generation

    def abort(self, error: ApiError) -> None:
        """Ends everything that is being generated."""
        for generation in list(self._generations):
            generation.abort(error)


def _refusal(error: LLMError, param: str, body: SamplingFields) -> InvalidRequest:
    """The core's error, in the route's names."""
    name = body.field_names.get(param, param)
    code = "context_length_exceeded" if isinstance(error, ContextLengthExceeded) else "invalid_value"
    return InvalidRequest(str(error).replace(param, name), param=name, code=code)
