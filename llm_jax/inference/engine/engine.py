"""The batching engine: requests in, tokens out. No text, no HTTP.

`Scheduler` assigns batch slots to requests, `Stepper` runs one step after the other, `Runner` is its device side.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
from jax.sharding import Mesh

from llm_jax.errors import ConfigError
from llm_jax.inference.engine.adapters import AdapterTable
from llm_jax.inference.engine.block_pool import BLOCK_TOKENS, BlockPool
from llm_jax.inference.engine.memory import array_blocks, check_length, longest_sequence, pool_blocks
from llm_jax.inference.engine.request import OnEmbedding, OnEvent, Request, SamplingParams
from llm_jax.inference.engine.runner import Runner
from llm_jax.inference.engine.scheduler import Scheduler, SequenceState
from llm_jax.inference.engine.stats import EngineStats
from llm_jax.inference.engine.step_plan import CHUNKS, DECODE_STEPS, DRAFT_TOKENS, MIN_PREFILL, Buckets
from llm_jax.inference.engine.stepper import Stepper
from llm_jax.kernels import Level, WeightDtype, has_native_attention
from llm_jax.model import (
    Adapter,
    AdapterCapacity,
    AdapterStack,
    Model,
    ModelDtype,
    cache_devices,
    cast_model,
    kernel_level,
    layer_windows,
    weight_types,
)
from llm_jax.parallel import replicated

MAX_BATCH, MAX_BATCH_WITHOUT_KERNELS = 64, 8  # of XLA on a CPU, whose memory is all taken at once


class Engine:
    """Continuous batching of requests over one model.

    Keys and values are in blocks of 64 tokens, taken as sequences grow. When there is none left, the sequence that is
    last in turn is put back into the queue and computed again later: its tokens stay the same.

    >>> from llm_jax import checkpoint, demo, inference
    >>> engine = Engine(checkpoint.load_model(demo.PATH).model)
    >>> request = inference.Request(prompt_ids=(5, 6), sampling=inference.SamplingParams(max_new_tokens=3))
    >>> engine.submit(request, lambda event: print(event.finish))
    0
    >>> while engine.step(): pass
    None
    None
    length

    Args:
        model: its weights are cast and packed once, see `cast_model`.
        max_batch: batch slots, the most requests that run at a time; 64 unless given, 8 for XLA on a CPU.
        max_len: tokens of a request, prompt and generated; unless given the model's max_seq_len, or what memory takes.
        dtype: of the weights, see `cast_model`.
        kv_dtype: dtype of cached keys and values: float32 where all weights are, else bfloat16, unless given.
        kv_memory: the most memory for keys and values, such as 2GB, or 50% of what is free; that unless given. On a CPU
            with native kernels it is taken as it is used.
        use_cache: False computes the whole sequence anew for each token. Slow: the reference for the cached path, and
            the only way for a model that is not causal (each new token changes the hidden states of earlier ones).
        prefix_tokens: tokens that stay cached when no request uses them, for prompts that begin alike; 0 is none.
        speculate: prompt lookup decoding: verify draft tokens where a request's text repeats. The tokens stay the same.
        mesh: spread weights and caches over these devices (`tensor_parallel_mesh`).
        adapters: what adapters there may be (`add_adapter`); None takes none, and costs nothing.

    Attributes:
        block_tokens: tokens of a block. Whole blocks of a prompt are reused, the rest is computed.
        min_prefill: prompt tokens that a step computes at least, as long as there are any.
        weight_types: what the weights are stored in.
        kv_tokens: how many tokens the KV cache takes, at the least: layers with a window need less.

    Raises:
        ConfigError: one request of `max_len` tokens does not fit into kv_memory, or a dtype is unknown.
    """

    block_tokens: ClassVar[int] = BLOCK_TOKENS
    min_prefill: ClassVar[int] = MIN_PREFILL

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int | None = None,
        max_len: int | None = None,
        dtype: ModelDtype = "float32",
        kv_dtype: WeightDtype | None = None,
        kv_memory: int | str | None = None,
        use_cache: bool = True,
        prefix_tokens: int = 0,
        speculate: bool = True,
        mesh: Mesh | None = None,
        adapters: AdapterCapacity | None = None,
    ) -> None:
        pair_gates = adapters is None or not adapters.changes_gates
        model, compute_dtype = cast_model(model, dtype, mesh=mesh, pair_gates=pair_gates)
        self.config = config = model.config
        self.use_cache = use_cache and config.is_causal
        level = kernel_level(model)
        is_slow = level == Level.XLA and jax.default_backend() == "cpu"
        self.max_batch = max_batch or (MAX_BATCH_WITHOUT_KERNELS if is_slow else MAX_BATCH)
        self.max_len = min(max_len or config.max_seq_len, config.max_seq_len)
        self.weight_types = weight_types(model)
        cache_dtype: WeightDtype = kv_dtype or ("float32" if self.weight_types == "float32" else "bfloat16")

        def buckets() -> Buckets:
            return Buckets(
                self.max_batch,
                self.max_len,
                draft=DRAFT_TOKENS if speculate and self.use_cache else 0,
                steps=DECODE_STEPS if self.use_cache else 0,
                chunks=CHUNKS if config.is_causal else (self.max_len,),  # without causality chunks change the result
                is_ragged=config.is_causal
                and not config.attention_sinks
                and has_native_attention(config.head_size, level),
            )

        stack: AdapterStack | None = None
        self._adapters: AdapterTable | None = None
        if adapters is not None:
            sharding = None if mesh is None else replicated(mesh)
            stack = AdapterStack(config, adapters, compute_dtype, sharding)
            self._adapters = AdapterTable(adapters, stack)
        keep = prefix_tokens // BLOCK_TOKENS if self.use_cache else 0
        blocks = pool_blocks(
            config,
            cache_dtype,
            slots=self.max_batch,
            max_len=self.max_len,
            chunk=buckets().max_chunk,
            keep=keep,
            kv_memory=kv_memory,
            devices=cache_devices(config, mesh),
        )
        length = longest_sequence(config, blocks, self.max_len)
        check_length(length, self.max_len if max_len else 1, config, cache_dtype)
        self.max_len = length
        self.kv_tokens = BLOCK_TOKENS * max(blocks)
        pool = BlockPool(blocks, layer_windows(config), slots=self.max_batch, max_len=length, keep=keep)
        self._runner = Runner(
            model,
            buckets(),
            blocks=[array_blocks(count, level) for count in blocks],
            tables=pool.tables,
            dtype=compute_dtype,
            level=level,
            cache_dtype=cache_dtype,
            mesh=mesh,
            adapters=stack,
        )
        self._scheduler = Scheduler(pool, self.max_batch)
        self._stepper = Stepper(self._scheduler, self._runner, buckets(), use_cache=self.use_cache)
        self._thread: threading.Thread | None = None
        self._closing = self._is_dead = False

    def submit(self, request: Request, on_event: OnEvent, on_admit: Callable[[int], None] = lambda _: None) -> int:
        """Queues a request and returns its request id. Thread-safe.

        `on_admit` is called when the request gets a slot, with the number of prompt tokens that were in the cache;
        `on_event` receives each token, or the exception that ended the request. Both are called in the thread that
        steps.

        Raises:
            RequestError: see `Request.check`, or there is no such adapter.
            Exception: what ended the engine's thread.
        """
        return self._submit(request, on_event, on_admit)

    def embed(
        self,
        prompt_ids: Sequence[int],
        on_result: OnEmbedding,
        on_admit: Callable[[int], None] = lambda _: None,
        *,
        tenant: str = "",
        priority: int = 0,
        adapter: str = "",
    ) -> int:
        """Queues a text to be embedded, and returns its request id. Thread-safe.

        `on_result` receives the mean of the last hidden states, after the final norm, over all its tokens, or the
        exception that ended the request; see `submit` for the rest.

        Raises:
            RequestError: see `Request.check`, or there is no such adapter.
        """
        request = Request(
            prompt_ids=tuple(prompt_ids),
            sampling=SamplingParams(),
            salt=tenant,
            tenant=tenant,
            priority=priority,
            is_embedding=True,
            adapter=adapter,
        )
        return self._submit(request, on_result, on_admit)

    def _submit(self, request: Request, on_event: Callable[[Any], None], on_admit: Callable[[int], None]) -> int:
        self.validate(request)
        if not request.adapter:
            return self._scheduler.submit(SequenceState(request, on_event, on_admit))
        table = self._adapter_table()
        slot = table.hold(request.adapter)
        on_end = partial(table.release, slot)
        return self._scheduler.submit(SequenceState(request, on_event, on_admit, adapter=slot, on_end=on_end))

    def add_adapter(self, name: str, adapter: Adapter, params: Mapping[str, Any]) -> None:
        """Serves an adapter under a name, to the requests that bear it from now on. Thread-safe; compiles nothing.

        One that has the name already is replaced; requests that run stay with theirs.

        Args:
            params: its parameters, named as `Adapter.shapes` names them.

        Raises:
            ConfigError: it does not fit the engine's capacity, or all slots are in use.
        """
        self._adapter_table().add(name, adapter, params)

    def remove_adapter(self, name: str) -> None:
        """Takes an adapter from later requests; those that run, or wait, end with it. Thread-safe.

        Raises:
            ConfigError: there is none of this name.
        """
        self._adapter_table().remove(name)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that requests may bear."""
        return [] if self._adapters is None else self._adapters.names

    def _adapter_table(self) -> AdapterTable:
        if self._adapters is None:
            raise ConfigError("This engine takes no adapters; make it with a capacity for some.")
        return self._adapters

    def validate(self, request: Request) -> None:
        """Raises RequestError if this engine cannot run the request."""
        request.check(self.config.vocab_size, self.max_len)

    def cancel(self, request_id: int) -> None:
        """Ends a request; it gets no further events. Thread-safe."""
        self._scheduler.cancel(request_id)

    def step(self) -> bool:
        """Runs one step; False when nothing is left to do. Call it from one thread, or let `start` do that."""
        return self._stepper.step()

    def start(self) -> None:
        """Steps in a background thread whenever there is work, until `close`."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="llm-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the background threads after their current step; running requests get no further events."""
        self._runner.close()
        with self._scheduler.changed:
            self._closing = True
            self._scheduler.changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def warmup(self, *, complete: bool = True) -> None:
        """Makes every program that a request can need, so that none waits for one. Call it before the first request.

        Args:
            complete: False returns as soon as any request can be served. The other programs, with which it is faster,
                follow in a thread; the output is the same.
        """
        self._runner.prepare(complete=complete)

    @property
    def stats(self) -> EngineStats:
        scheduler, stepper = self._scheduler, self._stepper
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            slots=self.max_batch,
            blocks=scheduler.pool.count,
            used_blocks=scheduler.pool.used,
            cached_blocks=scheduler.pool.cached,
            preemptions=scheduler.preemptions,
            prefix_queries=stepper.prefix_queries,
            prefix_hits=stepper.prefix_hits,
            drafted=stepper.drafted,
            accepted=stepper.accepted,
            compilations=stepper.compilations,
            missing_programs=self._runner.missing_programs,
            failures=stepper.failures,
            is_dead=self._is_dead,
            block_tokens=BLOCK_TOKENS,
            adapter_slots=0 if self._adapters is None else self._adapters.slots,
            running_adapters=_adapters_of(scheduler.running),
            waiting_adapters=_adapters_of(list(scheduler.waiting)),
        )

    def _run(self) -> None:
        changed = self._scheduler.changed
        while True:
            with changed:
                changed.wait_for(lambda: self._closing or self._stepper.has_work)
                if self._closing:
                    return
            try:
                self._stepper.step()
            except Exception as error:  # the device's state could not be made anew: nothing will run any more
                self._is_dead = True
                self._scheduler.close(error)
                return


def _adapters_of(sequences: Sequence[SequenceState]) -> tuple[str, ...]:
    return tuple(sorted({sequence.request.adapter for sequence in sequences} - {""}))
