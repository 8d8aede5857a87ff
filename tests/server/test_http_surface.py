"""What holds for every route: ids, shapes of errors, methods, metrics, the log."""

import uuid
from importlib.metadata import version
from typing import Any

import httpx
import pytest

from llm_jax import __version__
from llm_jax.kernels import best_level
from tests.server.live import Server


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b'"text"', b'{"prompt": NaN}', b"\xff", b"[" * 5000])
@pytest.mark.parametrize(("path", "status"), [("/generate", 422), ("/v1/chat/completions", 400)])
def test_a_body_that_is_no_json_object(http: httpx.Client, path: str, status: int, body: bytes) -> None:
    response = http.post(path, content=body)
    assert response.status_code == status
    assert response.json()["error"]["code"] == "invalid_json"


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_an_unknown_path(http: httpx.Client) -> None:
    response = http.get("/v2/chat")
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


def test_a_wrong_method(http: httpx.Client) -> None:
    response = http.get("/generate")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/v1/models", "/v1/models/llm"])
def test_head_where_get_is(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200
    response = http.head(path)
    assert response.status_code == 200
    assert response.content == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(http: httpx.Client, chunked: bool) -> None:
    body = b'{"prompt": "' + b"y" * 2**20 + b'"}'
    response = http.post("/generate", content=iter([body]) if chunked else body)
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


def test_every_answer_has_a_request_id(http: httpx.Client) -> None:
    ids = {http.get(path).headers["x-request-id"] for path in ("/health", "/v1/models", "/nowhere", "/generate")}
    assert len(ids) == 4


@pytest.mark.parametrize(("offered", "is_echoed"), [("trace-42", True), ("a b", False), ("x" * 129, False)])
def test_a_clients_request_id_is_echoed_when_it_is_sane(http: httpx.Client, offered: str, is_echoed: bool) -> None:
    given = http.get("/health", headers={"X-Request-ID": offered}).headers["x-request-id"]
    assert (given == offered) is is_echoed


def test_the_access_log_has_id_route_status_and_tokens(server: Server, http: httpx.Client) -> None:
    request_id = uuid.uuid4().hex
    body = {"prompt": "Say", "max_new_tokens": 5}
    http.post("/generate", json=body, headers={"X-Request-ID": request_id})
    line = server.wait_for("request", request_id=request_id)
    assert (line["method"], line["route"], line["status"]) == ("POST", "/generate", 200)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 5)
    assert line["duration"] > 0


PUBLISHED = [
    "llm_num_requests_running",
    "llm_num_requests_waiting",
    "llm_kv_cache_usage_perc",
    "llm_prompt_tokens_total",
    "llm_prompt_tokens_cached_total",
    "llm_generation_tokens_total",
    "llm_request_success_total",
    "llm_prefix_cache_queries_total",
    "llm_prefix_cache_hits_total",
    "llm_time_to_first_token_seconds_bucket",
    "llm_inter_token_latency_seconds_bucket",
    "llm_e2e_request_latency_seconds_bucket",
    "llm_request_queue_time_seconds_bucket",
    "llm_request_prefill_time_seconds_bucket",
    "llm_request_decode_time_seconds_bucket",
    "llm_request_prompt_tokens_bucket",
    "llm_request_generation_tokens_bucket",
    "llm_compilations_total",
    "llm_programs_missing",
    "http_requests_total",
    "http_request_duration_seconds_bucket",
]


def test_metrics_have_the_names_that_dashboards_read(server: Server, http: httpx.Client) -> None:
    before = server.metric("llm_generation_tokens_total")
    http.post("/generate", json={"prompt": "Say", "max_new_tokens": 5, "temperature": 0})
    assert server.metric("llm_generation_tokens_total") == before + 5
    text = http.get("/metrics").text
    for name in PUBLISHED:
        assert f"\n{name}{{" in text or f"\n{name} " in text, name
    assert "# TYPE llm_admission_rejections_total counter" in text
    assert "vllm:" not in text


def test_the_log_and_the_metrics_say_which_kernels_run(server: Server, http: httpx.Client) -> None:
    kernels = best_level().name.lower()
    (line,) = (line for line in server.log if line["event"] == "kernels")
    assert line["kernels"] == kernels
    assert (line["level"], "reason" in line) == (("warning", True) if kernels == "xla" else ("info", False))
    labels = f'jax="{version("jax")}",kernels="{kernels}",version="{__version__}"'
    assert f"\nllm_build_info{{{labels}}} 1.0\n" in http.get("/metrics").text


def test_nothing_is_compiled_once_ready(server: Server, http: httpx.Client) -> None:
    for length in (1, 20, 40, 100, 200, 300):
        http.post("/generate", json={"prompt": "y" * length, "max_new_tokens": 150, "logit_bias": {"0": -100}})
    assert server.metric("llm_compilations_total") == 0
