"""A loaded model as the routes see it: prompts in, generations out, no more at a time than its queue takes."""

import asyncio
import time
from collections.abc import Sequence

from jax.sharding import Mesh

from llm_jax.checkpoint import LoadedModel
from llm_jax.inference import Engine, EngineStats
from llm_jax.tokenizers import Tokenizer
from server.chat.chat_request import ChatRequest
from server.generation.embedding_work import EmbeddingWork
from server.generation.generation import Deadlines, Generation
from server.generation.preparation import Preparation, Prepared
from server.http.errors import ApiError, InvalidRequest, QueueFull
from server.observers import Observer
from server.schemas.embeddings import EmbeddingBody
from server.schemas.sampling import SamplingFields
from server.settings import Settings


class ServedModel:
    """A model under a name, with its tokenizer, its chat format, its limits, and an engine in a thread of its own.

    Attributes:
        max_len: tokens that a request may have, prompt and completion together.
        max_batch, kv_tokens, weight_types: see `Engine`.
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
        self.ready_at = 0
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
        self.kv_tokens, self.weight_types = self._engine.kv_tokens, self._engine.weight_types
        # Not `loaded` itself: its weights can be freed once the engine has packed its own.
        self._preparation = Preparation(
            loaded.model.config, loaded.generation, tokenizer, settings, max_len=self.max_len
        )
        self.chat_format = self._preparation.chat_format
        self._capacity = self.max_batch + settings.max_queue  # requests that run or wait
        self._deadlines = Deadlines(
            queue=settings.queue_timeout, first_token=settings.first_token_timeout, total=settings.request_timeout
        )
        self.embedding_size = loaded.model.config.hidden_size
        self._work: set[Generation | EmbeddingWork] = set()

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
        return self._generate(await asyncio.to_thread(self._preparation.complete, prompts, body, tenant))

    async def chat(self, chat: ChatRequest, body: SamplingFields, *, tenant: str) -> Generation:
        """Begins to answer a conversation. Raises what `complete` does."""
        return self._generate(await asyncio.to_thread(self._preparation.chat, chat, body, tenant))

    def _generate(self, prepared: Sequence[Prepared]) -> Generation:
        """Begins to generate for all requests, or for none."""
        self._check_capacity(len(prepared))
        generation = Generation(self._engine, self._deadlines, self._observers, on_close=self._work.discard)
        self._work.add(generation)
        for request, text in prepared:
            generation.submit(request, text)
        return generation

    async def embed(self, texts: Sequence[str | Sequence[int]], body: EmbeddingBody, *, tenant: str) -> EmbeddingWork:
        """Begins to embed texts, or ids.

        Raises:
            InvalidRequest: a text is not one that this model can embed.
            QueueFull: the queue cannot take that many now.
        """
        prompts = await asyncio.to_thread(self._preparation.embeddings, texts, body)
        at_once = min(len(prompts), self.max_batch)
        self._check_capacity(at_once)
        work = EmbeddingWork(
            self._engine,
            self._deadlines,
            self._observers,
            prompts,
            tenant=tenant,
            at_once=at_once,
            on_close=self._work.discard,
        )
        self._work.add(work)
        return work

    def _check_capacity(self, number: int) -> None:
        """
        Raises:
            InvalidRequest: there are more requests than the queue can ever take.
            QueueFull: it cannot take that many now.
        """
        if number > self._capacity:
            raise InvalidRequest(f"{number} choices are more than the {self._capacity} that this server queues.")
        unfinished = sum(work.unfinished for work in self._work)
        if unfinished + number > self._capacity:
            for observer in self._observers:
                observer.on_rejected("queue_full")
            raise QueueFull(f"{unfinished} of {self._capacity} requests run or wait already; try again in a moment.")

    def abort(self, error: ApiError) -> None:
        """Ends everything that is being generated."""
        for work in list(self._work):
            work.abort(error)
