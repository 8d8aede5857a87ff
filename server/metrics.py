"""Prometheus metrics: load of the engines, latencies, counts of tokens.

The names are those that dashboards and autoscalers for language model servers already query, under the prefix `llm`.
"""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from llm_jax import __version__
from server.observers import RequestStats
from server.registry import Registry

if TYPE_CHECKING:
    from llm_jax.inference import EngineStats

# Seconds. A small model on a GPU answers in milliseconds: the low buckets are finer than other servers'.
LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
TOKENS = tuple(2.0**n for n in range(18))


class Metrics:
    """The metrics of one application: what it observes of requests, and what its models' engines tell when asked."""

    def __init__(self, models: Registry, *, model_name: str, vllm_names: bool) -> None:
        registry = CollectorRegistry()
        self._registries = [registry]

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(name, help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, help, labels, buckets=buckets, registry=registry)

        self.prompt_tokens = counter("llm_prompt_tokens", "Prompt tokens read.")
        self.prompt_tokens_cached = counter("llm_prompt_tokens_cached", "Prompt tokens found in the prefix cache.")
        self.generation_tokens = counter("llm_generation_tokens", "Tokens generated.")
        self.success = counter("llm_request_success", "Generations that ended, by reason.", "finished_reason")
        self.rejections = counter("llm_admission_rejections", "Requests refused, by reason.", "reason")

        self.time_to_first_token = histogram(
            "llm_time_to_first_token_seconds", "From a request's arrival to its first token.", LATENCY
        )
        self.inter_token_latency = histogram(
            "llm_inter_token_latency_seconds", "Between two tokens of a request.", LATENCY
        )
        self.e2e_latency = histogram("llm_e2e_request_latency_seconds", "From arrival to last token.", LATENCY)
        self.queue_time = histogram("llm_request_queue_time_seconds", "From arrival to a batch slot.", LATENCY)
        self.prefill_time = histogram(
            "llm_request_prefill_time_seconds", "From a batch slot to the first token.", LATENCY
        )
        self.decode_time = histogram("llm_request_decode_time_seconds", "From the first token to the last.", LATENCY)
        self.request_prompt_tokens = histogram("llm_request_prompt_tokens", "Prompt tokens per request.", TOKENS)
        self.request_generation_tokens = histogram("llm_request_generation_tokens", "Tokens per answer.", TOKENS)

        self.http_requests = counter("http_requests", "Requests answered.", "method", "route", "status")
        self.http_duration = histogram(
            "http_request_duration_seconds", "From first byte to last.", LATENCY, "method", "route", "status"
        )
        registry.register(_EngineMetrics(models))
        ProcessCollector(registry=registry)
        if vllm_names:
            self._registries.append(CollectorRegistry())
            self._registries[-1].register(_VllmNames(registry, model_name))

    def on_rejected(self, reason: str) -> None:
        self.rejections.labels(reason).inc()

    def on_admitted(self, request: RequestStats) -> None:
        assert request.admitted is not None
        self.queue_time.observe(request.admitted - request.arrived)

    def on_first_token(self, request: RequestStats) -> None:
        assert request.first_token is not None
        self.time_to_first_token.observe(request.first_token - request.arrived)
        self.prefill_time.observe(request.first_token - (request.admitted or request.arrived))
        self.prompt_tokens.inc(request.prompt_tokens)
        self.prompt_tokens_cached.inc(request.cached_tokens)
        self.generation_tokens.inc()

    def on_next_token(self, request: RequestStats, interval: float) -> None:
        self.inter_token_latency.observe(interval)
        self.generation_tokens.inc()

    def on_embedded(self, request: RequestStats) -> None:
        self.prompt_tokens.inc(request.prompt_tokens)

    def on_ended(self, request: RequestStats) -> None:
        self.success.labels(request.finish_reason or "abort").inc()
        if request.finish_reason and request.first_token and request.last_token:
            self.e2e_latency.observe(request.last_token - request.arrived)
            self.decode_time.observe(request.last_token - request.first_token)
            self.request_prompt_tokens.observe(request.prompt_tokens)
            self.request_generation_tokens.observe(request.generated_tokens)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return b"".join(map(generate_latest, self._registries))


class _EngineMetrics(Collector):
    """Asks the engines of all models when Prometheus asks, and adds up what they say."""

    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        engines = [model.stats for model in self._models]

        def total(value: Callable[["EngineStats"], int]) -> int:
            return sum(map(value, engines))

        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        usage = total(lambda e: e.used_blocks) / max(total(lambda e: e.blocks), 1)
        yield gauge("llm_num_requests_running", "Requests in the batch.", total(lambda e: e.running))
        yield gauge("llm_num_requests_waiting", "Requests waiting for a batch slot.", total(lambda e: e.waiting))
        yield counter(
            "llm_num_preemptions",
            "Requests put back into the queue, since the KV cache was full.",
            total(lambda e: e.preemptions),
        )
        yield gauge("llm_kv_cache_usage_perc", "Fraction of the KV cache that running requests use, 0 to 1.", usage)
        yield counter(
            "llm_prefix_cache_queries",
            "Prompt tokens of admitted requests.",
            total(lambda e: e.prefix_queries),
        )
        yield counter(
            "llm_prefix_cache_hits", "Prompt tokens that were in the KV cache already.", total(lambda e: e.prefix_hits)
        )
        yield counter("llm_spec_decode_num_draft_tokens", "Draft tokens proposed.", total(lambda e: e.drafted))
        yield counter("llm_spec_decode_num_accepted_tokens", "Draft tokens accepted.", total(lambda e: e.accepted))
        if engines:
            yield _build_info()
        yield counter("llm_compilations", "XLA compilations that requests waited for.", total(lambda e: e.compilations))


def _build_info() -> Metric:
    from llm_jax.kernels import best_level

    labels = {"version": __version__, "kernels": best_level().name.lower(), "jax": version("jax")}
    info = GaugeMetricFamily("llm_build_info", "1; the labels say what runs.", labels=list(labels))
    info.add_metric(list(labels.values()), 1)
    return info


class _VllmNames(Collector):
    """The same samples once more, named as vLLM names them, with the label its dashboards choose by."""

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self._registry = registry
        self._label = {"model_name": model_name}

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.name.startswith("llm_"):
                copy = Metric(_renamed(family.name), family.documentation, family.type)
                copy.samples = [self._copy(sample) for sample in family.samples]
                yield copy

    def _copy(self, sample: Sample) -> Sample:
        return sample._replace(name=_renamed(sample.name), labels={**sample.labels, **self._label})


def _renamed(name: str) -> str:
    return "vllm:" + name.removeprefix("llm_")
