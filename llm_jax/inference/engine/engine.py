"""The batching engine: requests in, tokens out. No text, no HTTP.

Its parts: `Scheduler` says who has a row, `Runner` holds what lies on the device, `Stepper` moves the requests along.
"""

import threading
from collections.abc import Callable

from jax.sharding import Mesh

from llm_jax.inference.engine.buckets import CHUNKS, DRAFT, Buckets
from llm_jax.inference.engine.compilations import compilations
from llm_jax.inference.engine.prefix_cache import BLOCK
from llm_jax.inference.engine.request import OnEvent, Request
from llm_jax.inference.engine.runner import Runner
from llm_jax.inference.engine.scheduler import Job, Scheduler
from llm_jax.inference.engine.stats import EngineStats
from llm_jax.inference.engine.stepper import Stepper
from llm_jax.kernels import WeightDtype, has_native_attention
from llm_jax.model import Model, cast_model, kernel_level


class Engine:
    """Continuous batching of requests over one model.

    Memory is fixed at the start: `max_batch` rows of `max_len` tokens, and `prefix_tokens` beside them. `Scheduler`
    says who gets a row when.

    Args:
        model: its weights are cast and packed once, see `cast_model`.
        max_batch: how many requests run at a time.
        max_len: tokens a request may hold, prompt and generated; the model's max_seq_len unless given.
        dtype: what weights are kept in.
        kv_dtype: what keys and values are cached in: float32 with float32 weights, else bfloat16, unless given.
        use_cache: False computes the whole sequence anew for each token. Slow; the oracle of the cached path, and
            the only way for a model that is not causal (each new token changes what earlier ones see).
        prefix_tokens: how many tokens of shared prompt beginnings to keep across requests; 0 keeps none.
        speculate: guess tokens where a request's text repeats. The tokens stay the same.
        mesh: spread weights and caches over these devices (`tensor_parallel_mesh`).
    """

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
            draft=DRAFT if speculate and self.use_cache else 0,
            chunks=CHUNKS if self.config.is_causal else (self.max_len,),  # cut, such a prompt would be another
            is_ragged=self.config.is_causal and has_native_attention(self.config.head_size, level),
        )
        self._runner = Runner(
            model,
            buckets,
            dtype=compute_dtype,
            level=level,
            cache_dtype=kv_dtype or ("float32" if dtype == "float32" else "bfloat16"),
            prefix_blocks=prefix_tokens // BLOCK if self.use_cache else 0,
            mesh=mesh,
        )
        self._scheduler = Scheduler(max_batch)
        self._stepper = Stepper(
            self._scheduler, self._runner, buckets, use_cache=self.use_cache
        )  # fmt: skip
        self._thread: threading.Thread | None = None
        self._closing = False
        compilations()  # they count from here on

    def submit(self, request: Request, on_event: OnEvent, on_admit: Callable[[int], None] = lambda _: None) -> int:
        """Queues a request and returns its ticket. Thread-safe.

        `on_admit` is called when the request gets a row, with the number of tokens of its prompt that the prefix
        cache had; `on_event` receives each token, or the exception that ended the request. Both are called in the
        thread that steps.

        Raises:
            RequestError: the request does not pass `validate`.
        """
        self.validate(request)
        return self._scheduler.submit(Job(request, on_event, on_admit))

    def validate(self, request: Request) -> None:
        """Raises RequestError if this engine cannot run the request."""
        request.check(self.config.vocab_size, self.max_len)

    def cancel(self, ticket: int) -> None:
        """Forgets a request and frees its place; it gets no further events. Thread-safe."""
        self._scheduler.cancel(ticket)

    def step(self) -> bool:
        """Sends the next work to the device and hands out what it finished. False when nothing is left to do.

        The whole machine: admit what waits; send the next token of every row that is past its prompt, and with it as
        much of the prompts as the others' pace allows; hand out the tokens of the step before. Call it from one
        thread, or let `start` do that.
        """
        return self._stepper.step()

    def start(self) -> None:
        """Steps in a background thread whenever there is work, until `close`."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="llm-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the background thread after the step it is in; what still runs gets no further events."""
        with self._scheduler.changed:
            self._closing = True
            self._scheduler.changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def warmup(self) -> None:
        """Compiles every program that a request can need, and times it. Call it before the first request."""
        self._stepper.warmup()

    @property
    def stats(self) -> EngineStats:
        running, prefixes, stepper = self._scheduler.running, self._runner.prefixes, self._stepper
        return EngineStats(
            running=len(running),
            waiting=len(self._scheduler.waiting),
            slots=self.max_batch,
            kv_tokens=sum(job.held for job in running),
            kv_capacity=self.max_batch * self.max_len,
            prefix_blocks=prefixes.held,
            prefix_free=len(prefixes.free),
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
