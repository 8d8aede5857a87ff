"""What Prometheus reads: how busy the engine is, how long requests take, how many tokens pass.

The names are those that dashboards and autoscalers for language model servers already query, under the prefix `llm`.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from llm_jax.inference import EngineStats

# Seconds. A small model on a GPU answers in milliseconds: the low buckets are finer than other servers'.
LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
TOKENS = tuple(2.0**n for n in range(18))


class Metrics:
    """The metrics of one application, in registries of its own."""

    def __init__(self, stats: Callable[[], "EngineStats | None"], *, model_name: str, vllm_names: bool) -> None:
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
        self.rejections = counter("llm_admission_rejections", "Requests turned away, by reason.", "reason")

        self.time_to_first_token = histogram(
            "llm_time_to_first_token_seconds", "From a request's arrival to its first token.", LATENCY
        )
        self.inter_token_latency = histogram(
            "llm_inter_token_latency_seconds", "Between two tokens of a request.", LATENCY
        )
        self.e2e_latency = histogram("llm_e2e_request_latency_seconds", "From arrival to last token.", LATENCY)
        self.queue_time = histogram("llm_request_queue_time_seconds", "From arrival to a place in the batch.", LATENCY)
        self.prefill_time = histogram(
            "llm_request_prefill_time_seconds", "From a place in the batch to the first token.", LATENCY
        )
        self.decode_time = histogram("llm_request_decode_time_seconds", "From the first token to the last.", LATENCY)
        self.request_prompt_tokens = histogram("llm_request_prompt_tokens", "Prompt tokens per request.", TOKENS)
        self.request_generation_tokens = histogram("llm_request_generation_tokens", "Tokens per answer.", TOKENS)

        self.http_requests = counter("http_requests", "Requests answered.", "method", "route", "status")
        self.http_duration = histogram(
            "http_request_duration_seconds", "From first byte to last.", LATENCY, "method", "route", "status"
        )
        registry.register(_EngineMetrics(stats))
        ProcessCollector(registry=registry)
        if vllm_names:
            self._registries.append(CollectorRegistry())
            self._registries[-1].register(_VllmNames(registry, model_name))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return b"".join(map(generate_latest, self._registries))


class _EngineMetrics(Collector):
    """Reads the engine when Prometheus asks."""

    def __init__(self, stats: Callable[[], "EngineStats | None"]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()

        def gauge(name: str, help: str, value: Callable[["EngineStats"], float]) -> Metric:
            return GaugeMetricFamily(name, help, value(stats) if stats else 0)

        def counter(name: str, help: str, value: Callable[["EngineStats"], float]) -> Metric:
            return CounterMetricFamily(name, help, value(stats) if stats else 0)

        yield gauge("llm_num_requests_running", "Requests in the batch.", lambda s: s.running)
        yield gauge("llm_num_requests_waiting", "Requests waiting for a place in the batch.", lambda s: s.waiting)
        yield gauge(
            "llm_kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", lambda s: s.kv_tokens / s.kv_capacity
        )
        yield counter(
            "llm_prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda s: s.prefix_queries
        )
        yield counter("llm_prefix_cache_hits", "Prompt tokens found there.", lambda s: s.prefix_hits)
        yield counter("llm_spec_decode_num_draft_tokens", "Tokens guessed ahead.", lambda s: s.drafted)
        yield counter("llm_spec_decode_num_accepted_tokens", "Guesses that were right.", lambda s: s.accepted)
        yield counter("llm_compilations", "XLA compilations; flat once ready.", lambda s: s.compilations)


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
