"""A loaded model as the routes see it: prompts in, generations out, no more at a time than its queue takes."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from dataclasses import replace
from functools import partial

from jax.sharding import Mesh

from llm_jax.checkpoint import LoadedAdapter, LoadedModel
from llm_jax.inference import Engine, EngineStats
from llm_jax.model import AdapterCapacity
from llm_jax.tokenizers import Tokenizer
from server.access.account import Account
from server.access.allowance import Pace
from server.chat.chat_request import ChatRequest
from server.generation.embedding_work import EmbeddingWork
from server.generation.engine_work import Deadlines, EngineWork, WorkContext
from server.generation.generation import Generation
from server.generation.preparation import Preparation, Prepared
from server.http.errors import ApiError, InvalidRequest, TooManyRequests
from server.observers import Observer
from server.schemas.embeddings import EmbeddingBody
from server.schemas.sampling import SamplingFields
from server.settings import Settings

MOST_FAILURES = 3  # steps in a row: fewer may be due to a request


class ServedModel:
    """A model under a name, with its tokenizer, its chat format, its limits, and an engine in a thread of its own.

    Attributes:
        max_len: tokens that a request may have, prompt and completion together.
        max_batch, kv_tokens, weight_types: see `Engine`.
        ready_at: when `start` was done, in seconds since 1970.
        parent: of an adapter, the name of its model, whose engine it shares.
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
        adapters: AdapterCapacity | None = None,
    ) -> None:
        self.name = name
        self.parent: str | None = None
        self.config = loaded.model.config
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
            adapters=adapters,
        )
        self.max_len, self.max_batch = self._engine.max_len, self._engine.max_batch
        self.kv_tokens, self.weight_types = self._engine.kv_tokens, self._engine.weight_types
        # Not `loaded` itself: its weights can be freed once the engine has packed its own.
        self._prepare_with = partial(
            Preparation, self.config, loaded.generation, settings=settings, max_len=self.max_len
        )
        self._preparation = self._prepare_with(tokenizer)
        self.chat_format = self._preparation.chat_format
        self._capacity = self.max_batch + settings.max_queue  # requests that run or wait
        self._deadlines = Deadlines(
            queue=settings.queue_timeout, first_token=settings.first_token_timeout, total=settings.request_timeout
        )
        self.embedding_size = loaded.model.config.hidden_size
        self._work: set[EngineWork] = set()
        self._pace = Pace()

    def start(self) -> None:
        """Compiles what requests need and starts the engine's thread. Takes seconds."""
        self._engine.warmup(complete=False)
        self._engine.start()
        self.ready_at = int(time.time())

    def close(self) -> None:
        self._engine.close()

    def with_adapter(self, name: str, loaded: LoadedAdapter, tokenizer: Tokenizer | None) -> "ServedModel":
        """The same model with an adapter beside it, under the adapter's name; both share the engine and its queue.

        Args:
            tokenizer: the adapter's own, where it has one: its chat template is what the adapter was trained with.

        Raises:
            ConfigError: the adapter does not fit, or there is no slot for it.
        """
        self._engine.add_adapter(name, loaded.adapter, loaded.params)
        adapted = copy(self)
        adapted.name, adapted.parent, adapted.ready_at = name, self.name, int(time.time())
        if tokenizer is not None:
            adapted.tokenizer, adapted._preparation = tokenizer, self._prepare_with(tokenizer)
            adapted.chat_format = adapted._preparation.chat_format
        return adapted

    def drop_adapter(self, name: str) -> None:
        """Takes an adapter away from later requests; those that it has go on."""
        self._engine.remove_adapter(name)

    @property
    def limits(self) -> dict[str, int]:
        """The greatest token id, tokens of a completion, and length of an embedding: see `bounded_by`."""
        return {
            "vocabulary": self.config.vocab_size - 1,
            "completion": self.max_len - 1,
            "embedding": self.embedding_size,
        }

    @property
    def _adapter(self) -> str:
        return "" if self.parent is None else self.name

    @property
    def stats(self) -> EngineStats:
        return self._engine.stats

    @property
    def is_healthy(self) -> bool:
        """Its engine computes what it is given."""
        stats = self.stats
        return not stats.is_dead and stats.failures < MOST_FAILURES

    async def complete(
        self, prompts: Sequence[str | Sequence[int]], body: SamplingFields, *, account: Account
    ) -> Generation:
        """Begins to continue prompts, as text or ids.

        A body that sets no limit of tokens gets the default, or as many as the context still takes. The prefix
        cache is shared within an account only.

        Raises:
            InvalidRequest: a prompt or a setting is not one that this model can serve.
            TooManyRequests: the queue, or the account's limits, cannot take that now.
        """
        account.check()
        return self._generate(await asyncio.to_thread(self._preparation.complete, prompts, body, account), account)

    async def chat(self, chat: ChatRequest, body: SamplingFields, *, account: Account) -> Generation:
        """Begins to answer a conversation. Raises what `complete` does."""
        account.check()
        return self._generate(await asyncio.to_thread(self._preparation.chat, chat, body, account), account)

    def _generate(self, prepared: Sequence[Prepared], account: Account) -> Generation:
        """Begins to generate for all requests, or for none."""
        tokens = sum(request.most_tokens for request, _ in prepared)
        with ExitStack() as unless_begun:
            generation = unless_begun.enter_context(Generation(self._admit(len(prepared), tokens, account)))
            self._work.add(generation)
            for request, text in prepared:
                generation.submit(replace(request, adapter=self._adapter), text)
            unless_begun.pop_all()
        return generation

    async def embed(
        self, texts: Sequence[str | Sequence[int]], body: EmbeddingBody, *, account: Account
    ) -> EmbeddingWork:
        """Begins to embed texts, or ids. Raises what `complete` does."""
        account.check()
        prompts = await asyncio.to_thread(self._preparation.embeddings, texts, body)
        at_once = min(len(prompts), self.max_batch)
        with ExitStack() as unless_begun:
            work = unless_begun.enter_context(
                EmbeddingWork(self._admit(at_once, sum(map(len, prompts)), account), prompts)
            )
            self._work.add(work)
            work.submit(at_once)
            unless_begun.pop_all()
        return work

    def _admit(self, number: int, tokens: int, account: Account) -> WorkContext:
        """Takes so many engine requests into the queue, and so many tokens off the account.

        Raises:
            InvalidRequest: there are more requests than the queue, or tokens than the account, can ever take.
            TooManyRequests: it cannot take that many now.
        """
        self._check_capacity(number, account)
        end = account.admit(tokens)

        def on_close(work: EngineWork) -> None:
            self._work.discard(work)
            self._pace.mark()
            end(work.prompt_tokens + work.completion_tokens)

        return WorkContext(
            engine=self._engine,
            deadlines=self._deadlines,
            observers=self._observers,
            account=account,
            on_close=on_close,
            model=self.name,
            adapter=self._adapter,
        )

    def _check_capacity(self, number: int, account: Account) -> None:
        """An account may have as many requests waiting as there are places left (dynamic thresholds, Choudhury, Hahne
        1998): there always is one for another account. Its first may in any case.
        """
        if number > self._capacity:
            raise InvalidRequest(f"{number} choices are more than the {self._capacity} that this server queues.")
        unfinished = sum(work.unfinished for work in self._work)
        left = self._capacity - unfinished - number
        if left < 0:
            raise TooManyRequests(
                f"{unfinished} of {self._capacity} requests run or wait already",
                code="queue_full",
                seconds=self._pace.seconds,
            )
        waiting = sum(work.waiting for work in self._work if work.account is account)
        if not account.is_only and waiting and waiting + number > left:
            raise TooManyRequests(
                f"{waiting} requests of this API key wait already, and the {left + number} places left are for others "
                "too",
                code="queue_share",
                seconds=self._pace.seconds,
            )

    def abort(self, error: ApiError) -> None:
        """Ends everything that is being generated."""
        for work in list(self._work):
            work.abort(error)
