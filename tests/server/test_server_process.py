"""A server's life: start, keys, overload, clients that leave, drain, exit codes. Each test has a process of its own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jax
import openai
import pytest

from tests.server.live import MAX_BATCH, START, Server, exchange, running
from tests.server.tiny import CONTEXT, RECITED

ENDLESS: dict[str, Any] = {"prompt": "Say", "max_new_tokens": CONTEXT - 10, "logit_bias": {"0": -100}}
CAPACITY = 12
LONG_BATCH = {**{name: ENDLESS[name] for name in ("max_new_tokens", "logit_bias")}, "prompts": ["Say"] * CAPACITY}
LONG_STREAM = {"prompt": ["Say"] * CAPACITY, "max_tokens": 500, "logit_bias": {"0": -100}, "stream": True}
KEYS = {"X-API-Key": "first"}


@pytest.fixture(scope="module")
def narrow(reciter: Path) -> Iterator[Server]:
    """A short queue, and keys for almost everything."""
    with running(
        model_path=reciter,
        max_queue=CAPACITY - MAX_BATCH,
        api_key="first, second",
        open_health="false",
        served_model_name="reciter",
        metrics_prefix_vllm="true",
        cors_origins="https://page.example",
    ) as server:
        yield server


@pytest.fixture
def http(narrow: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=narrow.url, timeout=60, headers=KEYS) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "first"},
        {"X-API-Key": "second"},
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer second"},
        {"Authorization": "Bearer wrong", "X-API-Key": "first"},
    ],
)
def test_a_right_key_opens(narrow: Server, headers: dict[str, str]) -> None:
    assert httpx.get(f"{narrow.url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "firs"},
        {"X-API-Key": "first, second"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic first"},
        {"Authorization": "first"},
        {"X-API-Key": "clé".encode("latin-1")},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/generate", "/health", "/metrics", "/nowhere"])
def test_anything_else_is_a_401(narrow: Server, path: str, headers: Any) -> None:
    response = httpx.get(narrow.url + path, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert "x-request-id" in response.headers


def test_ready_is_open_by_default(narrow: Server) -> None:
    assert httpx.get(f"{narrow.url}/ready").status_code == 200


def test_a_page_of_an_allowed_origin_may_ask_first(narrow: Server) -> None:
    ask = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert httpx.options(f"{narrow.url}/generate", headers=ask).status_code == 200
    assert httpx.options(f"{narrow.url}/generate", headers={**ask, "Origin": "https://other"}).status_code == 400
    private = {**ask, "Access-Control-Request-Private-Network": "true"}
    response = httpx.options(f"{narrow.url}/generate", headers=private)
    assert (response.status_code, response.headers["access-control-allow-private-network"]) == (200, "true")


def test_metrics_under_vllms_names(http: httpx.Client) -> None:
    text = http.get("/metrics").text
    assert 'vllm:num_requests_running{model_name="reciter"} 0.0' in text
    assert 'vllm:time_to_first_token_seconds_bucket{le="0.001",model_name="reciter"}' in text


def test_a_full_queue_is_a_429_that_says_when_to_come_back(narrow: Server, http: httpx.Client) -> None:
    with ThreadPoolExecutor(2 * CAPACITY) as pool:
        answers = list(pool.map(lambda _: http.post("/generate", json=ENDLESS), range(2 * CAPACITY)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers if answer not in refused} == {200}
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] in ("queue_full", "queue_share")
    assert narrow.metric("llm_admission_rejections_total", **KEYS) == len(refused)


def test_a_batch_larger_than_the_queue_can_ever_hold_is_refused(http: httpx.Client) -> None:
    response = http.post("/batch_generate", json={"prompts": ["a"] * (CAPACITY + 1)})
    assert response.status_code == 422


def leave_while_waiting(http: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.post("/batch_generate", json=LONG_BATCH, timeout=0.4)


def leave_a_stream(http: httpx.Client) -> None:
    with http.stream("POST", "/v1/completions", json=LONG_STREAM) as response:
        next(response.iter_text())


@pytest.mark.parametrize("leave", [leave_while_waiting, leave_a_stream])
def test_a_client_that_leaves_frees_its_slots(
    narrow: Server, http: httpx.Client, leave: Callable[[httpx.Client], None]
) -> None:
    tokens = narrow.metric("llm_generation_tokens_total", **KEYS)
    leave(http)
    # Each look is a request of its own, so that this is no busy loop; a slot that is never freed ends in the timeout.
    while narrow.metric("llm_num_requests_running", **KEYS) + narrow.metric("llm_num_requests_waiting", **KEYS):
        pass
    assert narrow.metric("llm_generation_tokens_total", **KEYS) - tokens < CAPACITY * ENDLESS["max_new_tokens"]
    assert 'llm_request_success_total{finished_reason="abort",' in http.get("/metrics").text
    assert http.post("/generate", json={"prompt": "Say", "temperature": 0}).json()["generated_text"] == "Say" + RECITED


@pytest.fixture(scope="module")
def hasty(reciter: Path) -> Iterator[Server]:
    """A server whose deadlines are shorter than an answer."""
    with running(model_path=reciter, request_timeout=0.25, read_timeout=1) as server:
        yield server


HEAD = b"POST /generate HTTP/1.1\r\nHost: server\r\nContent-Length: 9\r\n"


@pytest.mark.parametrize("sent", [HEAD[:30], HEAD, HEAD + b"\r\n", HEAD + b"\r\n{"])
def test_a_request_that_does_not_go_on_is_given_up(hasty: Server, sent: bytes) -> None:
    fields, _, body = exchange(hasty, sent).partition(b"\r\n\r\n")
    assert fields.startswith(b"HTTP/1.1 408")
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_a_connection_without_a_request_is_closed(hasty: Server) -> None:
    assert exchange(hasty) == b""


def test_a_deadline_for_the_whole_request(hasty: Server) -> None:
    response = httpx.post(f"{hasty.url}/generate", json=ENDLESS)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"


def test_a_stream_past_its_deadline_ends_with_an_error_that_the_sdk_raises(hasty: Server) -> None:
    client = openai.OpenAI(base_url=f"{hasty.url}/v1", api_key="any", max_retries=0)
    stream = client.completions.create(model="llm", prompt="Say", max_tokens=500, logit_bias={"0": -100}, stream=True)
    with client, pytest.raises(openai.APIError, match="longer than"):
        list(stream)


def test_while_it_loads_it_is_alive_and_says_when_to_come_back(reciter: Path) -> None:
    server = Server(model_path=reciter)
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
    for response in (httpx.post(f"{server.url}/generate", json=ENDLESS), httpx.get(f"{server.url}/ready")):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "loading"
    assert server.stop() == 0


def test_sigterm_finishes_what_runs_refuses_what_comes_and_exits_0(reciter: Path) -> None:
    with running(model_path=reciter) as server:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=LONG_STREAM, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.terminate()
            server.wait_for("draining")
            refusal = httpx.post(f"{server.url}/generate", json=ENDLESS)
            assert refusal.status_code == 503
            assert "retry-after" in refusal.headers
            assert refusal.json()["error"]["code"] == "draining"
            assert httpx.get(f"{server.url}/ready").status_code == 503
            assert httpx.get(f"{server.url}/health").status_code == 200
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.process.wait(timeout=30) == 0


def test_after_the_grace_period_streams_end_with_an_error_and_it_exits_0(reciter: Path) -> None:
    with running("--drain-grace", "0.1", model_path=reciter, drain_grace=60) as server:  # the flag wins
        with httpx.stream("POST", f"{server.url}/v1/completions", json=LONG_STREAM, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.process.terminate()
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert server.process.wait(timeout=30) == 0


def refusal_to_start(*flags: str, **variables: str) -> str:
    """What a server that will not start says on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.serve", "--port", "0", *flags],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=START,
    )
    assert done.returncode not in (0, -15)
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_it_will_not_start_without_a_model(tmp_path: Path) -> None:
    assert "nowhere" in refusal_to_start("--model-path", str(tmp_path / "nowhere"))
    (tmp_path / "model.safetensors").write_bytes(b"not one")
    assert str(tmp_path) in refusal_to_start("--model-path", str(tmp_path))


def test_it_will_not_start_without_a_model_of_the_hub(tmp_path: Path) -> None:
    message = refusal_to_start("--model", "someone/else", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert "someone/else is no path that exists, and cannot be had from the Hub" in message
    assert "HF_HUB_OFFLINE" in message


def test_it_will_not_start_without_the_tokenizer(reciter: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((reciter / name).read_bytes())
    assert "tokenizer.json" in refusal_to_start("--model-path", str(tmp_path))


def test_it_will_not_start_on_a_device_that_is_not_there(reciter: Path) -> None:
    if "cuda" in {device.platform for device in jax.devices()} | {jax.default_backend()}:
        pytest.skip("this machine has a GPU that JAX can use")
    message = refusal_to_start("--model-path", str(reciter), "--device", "cuda")
    assert "'cuda'" in message
    assert "DEVICE=cpu" in message


def test_it_will_not_start_on_more_devices_than_there_are(reciter: Path) -> None:
    assert "9 devices" in refusal_to_start("--model-path", str(reciter), "--device", "cpu", "--tensor-parallel", "9")


def test_one_model_on_two_devices_answers_as_on_one(reciter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    settings = {"tensor_parallel": 2, "max_model_len": 64, "dtype": "int8"}
    with running("--max-batch=1", model_path=reciter, **settings) as server:
        answer = httpx.post(f"{server.url}/generate", json={"prompt": "Say", "temperature": 0}, timeout=60).json()
    assert answer["generated_text"] == "Say" + RECITED
    assert answer["finish_reason"] == "stop"


def test_it_will_not_start_on_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refusal_to_start("--port", str(port))


def test_it_will_not_start_without_its_certificate_or_its_accounts(tmp_path: Path) -> None:
    assert "nowhere.pem" in refusal_to_start("--tls-certificate", str(tmp_path / "nowhere.pem"))
    assert "--tls-certificate" in refusal_to_start("--tls-key", "key.pem")
    assert "nowhere.toml" in refusal_to_start("--api-key-file", str(tmp_path / "nowhere.toml"))


def test_it_will_not_start_with_a_setting_that_it_does_not_know() -> None:
    assert "LLM_SERVING_MODEL_PATH" in refusal_to_start(LLM_SERVING_MODELPATH="x")


def test_what_a_prompt_has_in_common_with_an_earlier_one_of_its_key_is_not_computed_again(narrow: Server) -> None:
    """And the compilation counter stays where it was when the server became ready."""
    prompt = "a shared beginning " * 12  # three whole blocks of 64 bytes

    def cached_tokens(key: str) -> int:
        client = openai.OpenAI(base_url=f"{narrow.url}/v1", api_key=key, max_retries=0)
        usage = client.completions.create(model="llm", prompt=prompt, max_tokens=3, temperature=0).usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        return usage.prompt_tokens_details.cached_tokens or 0

    assert [cached_tokens(key) for key in ("first", "first", "second", "second")] == [0, 192, 0, 192]
    assert narrow.metric("llm_prefix_cache_hits_total", **KEYS) == 2 * 192
    assert narrow.metric("llm_prefix_cache_queries_total", **KEYS) >= 4 * len(prompt)
    assert narrow.metric("llm_prompt_tokens_cached_total", **KEYS) == 2 * 192
    assert narrow.metric("llm_compilations_total", **KEYS) == 0
