"""The batching engine: requests in, tokens out. No text, no HTTP.

`Scheduler` assigns batch slots to requests, `Stepper` runs one step after the other, `Runner` is its device side.
"""

import threading
from collections.abc import Callable
from typing import ClassVar

from jax.sharding import Mesh

from llm_jax.inference.engine.prefix_cache import BLOCK_SIZE
from llm_jax.inference.engine.request import OnEvent, Request
from llm_jax.inference.engine.runner import Runner
from llm_jax.inference.engine.scheduler import Scheduler, SequenceState
from llm_jax.inference.engine.stats import EngineStats, compilations
from llm_jax.inference.engine.step_plan import CHUNKS, DRAFT_TOKENS, MIN_PREFILL, Buckets
from llm_jax.inference.engine.stepper import Stepper
from llm_jax.kernels import WeightDtype, has_native_attention
from llm_jax.model import Model, cast_model, kernel_level


class Engine:
    """Continuous batching of requests over one model.

    Memory is allocated once: `max_batch` slots of `max_len` tokens, and `prefix_tokens` beside them.

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
        max_batch: batch slots, the most requests that run at a time.
        max_len: tokens of a request, prompt and generated; the model's max_seq_len unless given.
        dtype: weight dtype.
        kv_dtype: dtype of cached keys and values: float32 with float32 weights, else bfloat16, unless given.
        use_cache: False computes the whole sequence anew for each token. Slow: the reference for the cached path, and
            the only way for a model that is not causal (each new token changes the hidden states of earlier ones).
        prefix_tokens: size of the prefix cache; 0 turns it off.
        speculate: prompt lookup decoding: verify draft tokens where a request's text repeats. The tokens stay the same.
        mesh: spread weights and caches over these devices (`tensor_parallel_mesh`).

    Attributes:
        prefix_block: tokens per block of the prefix cache. Whole blocks of a prompt are reused, the rest is computed.
        min_prefill: prompt tokens that a step computes at least, as long as there are any.

    Raises:
        ConfigError: the caches do not fit into free memory, or a dtype is unknown.
    """

    prefix_block: ClassVar[int] = BLOCK_SIZE
    min_prefill: ClassVar[int] = MIN_PREFILL

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int = 8,
        max_len: int | None = None,
        dtype: WeightDtype = "float32",
        kv_dtype: WeightDtype | None = None,
        use_cache: bool = True,
        prefix_tokens: int = 0,
        speculate: bool = True,
        mesh: Mesh | None = None,
    ) -> None:
        model, compute_dtype = cast_model(model, dtype, mesh=mesh)
        self.config = model.config
        self.max_batch = max_batch
        self.max_len = min(max_len or model.config.max_seq_len, model.config.max_seq_len)
        self.use_cache = use_cache and model.config.is_causal
        level = kernel_level(model)
        buckets = Buckets(
            max_batch,
            self.max_len,
            draft=DRAFT_TOKENS if speculate and self.use_cache else 0,
            chunks=CHUNKS if self.config.is_causal else (self.max_len,),  # without causality chunks change the result
            is_ragged=self.config.is_causal and has_native_attention(self.config.head_size, level),
        )
        self._runner = Runner(
            model,
            buckets,
            dtype=compute_dtype,
            level=level,
            cache_dtype=kv_dtype or ("float32" if dtype == "float32" else "bfloat16"),
            prefix_blocks=prefix_tokens // BLOCK_SIZE if self.use_cache else 0,
            mesh=mesh,
        )
        self._scheduler = Scheduler(max_batch)
        self._stepper = Stepper(self._scheduler, self._runner, buckets, use_cache=self.use_cache)
        self._thread: threading.Thread | None = None
        self._closing = False
        compilations()  # starts the count

    def submit(self, request: Request, on_event: OnEvent, on_admit: Callable[[int], None] = lambda _: None) -> int:
        """Queues a request and returns its request id. Thread-safe.

        `on_admit` is called when the request gets a slot, with the number of prompt tokens that the prefix cache had;
        `on_event` receives each token, or the exception that ended the request. Both are called in the thread that
        steps.

        Raises:
            RequestError: see `Request.check`.
        """
        self.validate(request)
        return self._scheduler.submit(SequenceState(request, on_event, on_admit))

    def validate(self, request: Request) -> None:
        """Raises RequestError if this engine cannot run the request."""
        request.check(self.config.vocab_size, self.max_len)

    def cancel(self, request_id: int) -> None:
        """Ends a request and frees its slot; it gets no further events. Thread-safe."""
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
        """Stops the background thread after its current step; running requests get no further events."""
        with self._scheduler.changed:
            self._closing = True
            self._scheduler.changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def warmup(self) -> None:
        """Compiles every program that a request can need, and measures its time. Call it before the first request."""
        self._stepper.warmup()

    @property
    def stats(self) -> EngineStats:
        running, prefix_cache, stepper = self._scheduler.running, self._runner.prefix_cache, self._stepper
        return EngineStats(
            running=len(running),
            waiting=len(self._scheduler.waiting),
            slots=self.max_batch,
            kv_tokens=sum(sequence.cached for sequence in running),
            kv_capacity=self.max_batch * self.max_len,
            prefix_blocks=prefix_cache.stored,
            prefix_free=len(prefix_cache.free),
            prefix_queries=stepper.prefix_queries,
            prefix_hits=stepper.prefix_hits,
            drafted=stepper.drafted,
            accepted=stepper.accepted,
            compilations=compilations(),
        )

    def _run(self) -> None:
        changed = self._scheduler.changed
        while True:
            with changed:
                changed.wait_for(lambda: self._closing or self._stepper.has_work)
                if self._closing:
                    return
            self._stepper.step()
