"""A loaded model as the routes see it: prompts in, generations out, no more at a time than its queue takes."""

import asyncio
import time
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
from server.chat_request import ChatRequest
from server.choice_text import ChoiceText, PlainText
from server.errors import ApiError, InvalidRequest, QueueFull
from server.generation import Deadlines, Generation
from server.observers import Observer
from server.schemas.base import DEFAULT_MAX_TOKENS, SamplingFields
from server.settings import Settings

Prepared = tuple[Request, ChoiceText]  # a choice before it is submitted


class ServedModel:
    """A model under a name, with its tokenizer, its chat format, its limits, and an engine in a thread of its own.

    Attributes:
        max_len: tokens that a request may have, prompt and completion together.
        max_batch, kv_tokens: see `Engine`.
        ready_at: when `start` was done, in seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        settings: Settings,
        *,
        observers: Sequence[Observer] = (),
        mesh: Mesh | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.chat_format = ChatFormat.of(tokenizer)
        self.ready_at = 0
        # Not `loaded` itself: its weights can be freed once the engine has packed its own.
        self._config, self._eos_ids = loaded.model.config, loaded.generation.eos_ids
        self._observers = observers
        self._engine = Engine(
            loaded.model,
            max_batch=settings.max_batch,
            max_len=settings.max_model_len,
            dtype=settings.dtype,
            kv_dtype=settings.kv_dtype,
            kv_memory=settings.kv_memory,
            prefix_tokens=settings.prefix_cache,
            speculate=settings.speculate,
            mesh=mesh,
        )
        self.max_len, self.max_batch = self._engine.max_len, self._engine.max_batch
        self.kv_tokens = self._engine.kv_tokens
        self._capacity = self.max_batch + settings.max_queue  # requests that run or wait
        self._deadlines = Deadlines(
            queue=settings.queue_timeout, first_token=settings.first_token_timeout, total=settings.request_timeout
        )
        self._generations: set[Generation] = set()

    def start(self) -> None:
        """Compiles what requests need and starts the engine's thread. Takes seconds."""
        self._engine.warmup(complete=False)
        self._engine.start()
        self.ready_at = int(time.time())

    def close(self) -> None:
        self._engine.close()

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    async def complete(
        self, prompts: Sequence[str | Sequence[int]], body: SamplingFields, *, tenant: str
    ) -> Generation:
        """Begins to continue prompts, as text or ids.

        A body that sets no limit of tokens gets the default, or as many as the context still takes. The prefix
        cache is shared within a tenant only.

        Raises:
            InvalidRequest: a prompt or a setting is not one that this model can serve.
            QueueFull: the queue cannot take that many now.
        """
        prepared = await asyncio.to_thread(
            lambda: [choice for prompt in prompts for choice in self._prepare(prompt, body, tenant)]
        )
        return self._generate(prepared)

    async def chat(self, chat: ChatRequest, body: SamplingFields, *, tenant: str) -> Generation:
        """Begins to answer a conversation. Raises what `complete` does."""
        return self._generate(await asyncio.to_thread(self._prepare_chat, chat, body, tenant))

    def _prepare_chat(self, chat: ChatRequest, body: SamplingFields, tenant: str) -> list[Prepared]:
        prompt = self.chat_format.render(chat)
        return self._prepare(prompt, body, tenant, stop=self.chat_format.stop, prefix=self.chat_format.prefix)

    def _prepare(
        self,
        prompt: str | Sequence[int],
        body: SamplingFields,
        tenant: str,
        *,
        stop: Sequence[str] = (),
        prefix: str = "",
    ) -> list[Prepared]:
        """The choices for one prompt."""
        try:
            encode = self.tokenizer.encode_with_special_tokens if body.add_special_tokens else self.tokenizer.encode
            ids = encode(prompt) if isinstance(prompt, str) else prompt
            limit = body.token_limit or max(1, min(DEFAULT_MAX_TOKENS, self.max_len - len(ids)))
            sampling = SamplingParams(max_new_tokens=limit, stop_ids=self._eos_ids, **body.sampling())
            request = prepare_request(
                self._config,
                self.tokenizer,
                ids,
                sampling,
                truncate=False,
                stop=body.stop_strings,
                max_len=self.max_len,
            )
        except RequestError as error:
            raise _refusal(error, error.param or "prompt", body) from None
        except TokenizerError as error:
            raise _refusal(error, "prompt", body) from None
        request = replace(request, salt=tenant, tenant=tenant)
        text = TextStream(self.tokenizer, (*body.stop_strings, *stop), prompt_ids=request.prompt_ids, prefix=prefix)
        return [(request, PlainText(text))]

    def _generate(self, prepared: Sequence[Prepared]) -> Generation:
        """Begins to generate for all requests, or for none.

        Raises:
            InvalidRequest: there are more requests than the queue can ever take.
            QueueFull: it cannot take that many now.
        """
        if len(prepared) > self._capacity:
            raise InvalidRequest(f"{len(prepared)} choices are more than the {self._capacity} that this server queues.")
        unfinished = sum(generation.unfinished for generation in self._generations)
        if unfinished + len(prepared) > self._capacity:
            for observer in self._observers:
                observer.on_rejected("queue_full")
            raise QueueFull(f"{unfinished} of {self._capacity} requests run or wait already; try again in a moment.")
        generation = Generation(self._engine, self._deadlines, self._observers, on_close=self._generations.discard)
        self._generations.add(generation)
        for request, text in prepared:
            generation.submit(request, text)
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
