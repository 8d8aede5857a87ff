"""Prometheus metrics: load of the engines, latencies, counts of tokens.

The names are those that dashboards and autoscalers for language model servers already query, under the prefix `llm`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from llm_jax import __version__
from server.observers import RequestStats
from server.registry import Registry

if TYPE_CHECKING:
    from llm_jax.inference import EngineStats

_Family = TypeVar("_Family", GaugeMetricFamily, CounterMetricFamily)

# Seconds. A small model on a GPU answers in milliseconds: the low buckets are finer than other servers'.
LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
CACHE = ("block_size", "num_gpu_blocks")
ADAPTERS = ("max_lora", "running_lora_adapters", "waiting_lora_adapters")
MODEL = "model_name"  # as dashboards for other servers call it
TOKENS = tuple(2.0**n for n in range(18))


class Metrics:
    """The metrics of one application: what it observes of requests, and what its models' engines tell when asked.

    Those of requests and engines have the label `model_name`; requests of an adapter have the adapter's.
    """

    def __init__(self, models: Registry, *, vllm_names: bool) -> None:
        registry = CollectorRegistry()
        self._registries = [registry]
        self._models = models

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(name, help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, help, labels, buckets=buckets, registry=registry)

        self.prompt_tokens = counter("llm_prompt_tokens", "Prompt tokens read.", MODEL)
        self.prompt_tokens_cached = counter("llm_prompt_tokens_cached", "Prompt tokens found in the cache.", MODEL)
        self.generation_tokens = counter("llm_generation_tokens", "Tokens generated.", MODEL)
        self.success = counter("llm_request_success", "Generations that ended, by reason.", MODEL, "finished_reason")
        self.rejections = counter("llm_admission_rejections", "Requests refused, by reason.", "reason")

        self.time_to_first_token = histogram(
            "llm_time_to_first_token_seconds", "From a request's arrival to its first token.", LATENCY, MODEL
        )
        self.inter_token_latency = histogram(
            "llm_inter_token_latency_seconds", "Between two tokens of a request.", LATENCY, MODEL
        )
        self.e2e_latency = histogram("llm_e2e_request_latency_seconds", "From arrival to last token.", LATENCY, MODEL)
        self.queue_time = histogram("llm_request_queue_time_seconds", "From arrival to a batch slot.", LATENCY, MODEL)
        self.prefill_time = histogram(
            "llm_request_prefill_time_seconds", "From a batch slot to the first token.", LATENCY, MODEL
        )
        self.decode_time = histogram("llm_request_decode_time_seconds", "From first token to last.", LATENCY, MODEL)
        self.request_prompt_tokens = histogram("llm_request_prompt_tokens", "Prompt tokens per request.", TOKENS, MODEL)
        self.request_generation_tokens = histogram("llm_request_generation_tokens", "Tokens per answer.", TOKENS, MODEL)

        self._by_model: list[Counter | Histogram] = [
            self.prompt_tokens, self.prompt_tokens_cached, self.generation_tokens,
            self.time_to_first_token, self.inter_token_latency, self.e2e_latency, self.queue_time, self.prefill_time,
            self.decode_time, self.request_prompt_tokens, self.request_generation_tokens,
        ]  # fmt: skip

        self.http_requests = counter("http_requests", "Requests answered.", "method", "route", "status")
        self.http_duration = histogram(
            "http_request_duration_seconds", "From first byte to last.", LATENCY, "method", "route", "status"
        )
        registry.register(_EngineMetrics(models))
        ProcessCollector(registry=registry)
        if vllm_names:
            self._registries.append(CollectorRegistry())
            self._registries[-1].register(_VllmNames(registry))

    def on_rejected(self, reason: str) -> None:
        self.rejections.labels(reason).inc()

    def on_admitted(self, request: RequestStats) -> None:
        assert request.admitted is not None
        self.queue_time.labels(request.model).observe(request.admitted - request.arrived)

    def on_first_token(self, request: RequestStats) -> None:
        assert request.first_token is not None
        self.time_to_first_token.labels(request.model).observe(request.first_token - request.arrived)
        self.prefill_time.labels(request.model).observe(request.first_token - (request.admitted or request.arrived))
        self.prompt_tokens.labels(request.model).inc(request.prompt_tokens)
        self.prompt_tokens_cached.labels(request.model).inc(request.cached_tokens)
        self.generation_tokens.labels(request.model).inc()

    def on_next_token(self, request: RequestStats, interval: float) -> None:
        self.inter_token_latency.labels(request.model).observe(interval)
        self.generation_tokens.labels(request.model).inc()

    def on_embedded(self, request: RequestStats) -> None:
        self.prompt_tokens.labels(request.model).inc(request.prompt_tokens)

    def on_ended(self, request: RequestStats) -> None:
        self.success.labels(request.model, request.finish_reason or "abort").inc()
        if request.finish_reason and request.first_token and request.last_token:
            self.e2e_latency.labels(request.model).observe(request.last_token - request.arrived)
            self.decode_time.labels(request.model).observe(request.last_token - request.first_token)
            self.request_prompt_tokens.labels(request.model).observe(request.prompt_tokens)
            self.request_generation_tokens.labels(request.model).observe(request.generated_tokens)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        for model in self._models:  # from the start, so that the first request is an increase
            for metric in self._by_model:
                metric.labels(model.name)
        return b"".join(map(generate_latest, self._registries))


class _EngineMetrics(Collector):
    """Asks the engines of all models when Prometheus asks."""

    def __init__(self, models: Registry) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        engines = {model.name: model.stats for model in self._models.bases}

        def family(kind: type[_Family], name: str, help: str, value: Callable[["EngineStats"], float]) -> _Family:
            metric = kind(name, help, labels=[MODEL])
            for model, stats in engines.items():
                metric.add_metric([model], value(stats))
            return metric

        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield family(gauge, "llm_num_requests_running", "Requests in the batch.", lambda e: e.running)
        yield family(gauge, "llm_num_requests_waiting", "Requests waiting for a batch slot.", lambda e: e.waiting)
        yield family(
            counter,
            "llm_num_preemptions",
            "Requests put back into the queue, since the KV cache was full.",
            lambda e: e.preemptions,
        )
        yield family(
            gauge,
            "llm_kv_cache_usage_perc",
            "Fraction of the KV cache that running requests use, 0 to 1.",
            lambda e: e.used_blocks / e.blocks,
        )
        yield family(
            counter, "llm_prefix_cache_queries", "Prompt tokens of admitted requests.", lambda e: e.prefix_queries
        )
        yield family(
            counter,
            "llm_prefix_cache_hits",
            "Prompt tokens that were in the KV cache already.",
            lambda e: e.prefix_hits,
        )
        yield family(counter, "llm_spec_decode_num_draft_tokens", "Draft tokens proposed.", lambda e: e.drafted)
        yield family(counter, "llm_spec_decode_num_accepted_tokens", "Draft tokens accepted.", lambda e: e.accepted)
        yield family(
            counter, "llm_compilations", "XLA compilations that requests waited for.", lambda e: e.compilations
        )
        yield family(
            gauge,
            "llm_programs_missing",
            "Programs that are still being compiled; requests are served meanwhile, slower.",
            lambda e: e.missing_programs,
        )
        yield _cache_config(engines)
        yield _adapters(engines)
        if engines:
            yield _build_info()


def _cache_config(engines: Mapping[str, "EngineStats"]) -> Metric:
    """What the Inference Extension's model server protocol calls block size and number of blocks."""
    info = GaugeMetricFamily(
        "llm_cache_config_info", "1; the labels say how the KV cache is divided.", labels=[MODEL, *CACHE]
    )
    for model, stats in engines.items():
        info.add_metric([model, str(stats.block_tokens), str(stats.blocks)], 1)
    return info


def _adapters(engines: Mapping[str, "EngineStats"]) -> Metric:
    """Which adapters requests run and wait for, by the same protocol: the newest sample is the one that counts."""
    info = GaugeMetricFamily(
        "llm_lora_requests_info", "When this was so, in seconds since 1970.", labels=[MODEL, *ADAPTERS]
    )
    for model, stats in engines.items():
        if stats.adapter_slots:
            running, waiting = ",".join(stats.running_adapters), ",".join(stats.waiting_adapters)
            info.add_metric([model, str(stats.adapter_slots), running, waiting], time.time())
    return info


def _build_info() -> Metric:
    from llm_jax.kernels import best_level

    labels = {"version": __version__, "kernels": best_level().name.lower(), "jax": version("jax")}
    info = GaugeMetricFamily("llm_build_info", "1; the labels say what runs.", labels=list(labels))
    info.add_metric(list(labels.values()), 1)
    return info


class _VllmNames(Collector):
    """The same samples once more, named as vLLM names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.name.startswith("llm_"):
                copy = Metric(_renamed(family.name), family.documentation, family.type)
                copy.samples = [sample._replace(name=_renamed(sample.name)) for sample in family.samples]
                yield copy


def _renamed(name: str) -> str:
    return "vllm:" + name.removeprefix("llm_")
