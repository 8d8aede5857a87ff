"""A server that is used badly: floods, clients that leave, greedy ones, slow ones, hostile bodies; keys that change."""

import asyncio
import json
import re
import signal
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from server.access.digests import digest
from tests.server.live import MAX_BATCH, START, Server, exchange, running
from tests.server.tiny import CONTEXT, RECITED

QUEUE = 32
SAY: dict[str, Any] = {"prompt": "Say", "temperature": 0}
LONG: dict[str, Any] = {"prompt": "Say", "max_tokens": CONTEXT - 10, "logit_bias": {"0": -100}}
GREEDY, MODEST, OPERATOR = "sk-greedy-1", "sk-modest-1", "sk-operator"
FREED = 5  # seconds within which nothing of abandoned requests may be left
GROWTH = 64 * 2**20  # bytes of memory that no misuse may take for good


def accounts(greedy: str = GREEDY, modest: tuple[str, ...] = (MODEST,)) -> str:
    entries = {"greedy": [greedy], "modest": modest, "operator": [OPERATOR]}
    text = ""
    for name, keys in entries.items():
        text += f"[{name}]\nsha256 = {json.dumps([digest(key) for key in keys])}\n"
    return text + '[limited]\nrequests_per_minute = 2\nmodels = ["none"]\n' + f'sha256 = ["{digest("sk-limited")}"]\n'


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(accounts(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def guarded(reciter: Path, key_file: Path) -> Iterator[Server]:
    with running(model_path=reciter, api_key_file=key_file, max_queue=QUEUE, prefix_cache=640) as server:
        yield server


def client(server: Server, key: str = OPERATOR) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=120, headers={"X-API-Key": key}, limits=limits)


def wait_until_idle(server: Server) -> None:
    deadline = time.monotonic() + FREED
    while any(
        server.metric(f"llm_num_requests_{state}", **{"X-API-Key": OPERATOR}) for state in ("running", "waiting")
    ):
        assert time.monotonic() < deadline
    assert (
        server.metric("llm_kv_cache_usage_perc", **{"X-API-Key": OPERATOR}) == 0
    )  # prefixes that stay cached do not count


def test_of_400_requests_that_are_abandoned_nothing_is_left(guarded: Server) -> None:
    async def abandon(http: httpx.AsyncClient, *, stream: bool) -> None:
        sending = http.build_request("POST", "/v1/completions", json={**LONG, "stream": stream})
        if stream:
            response = await http.send(sending, stream=True)
            assert response.status_code == 200
            await anext(response.aiter_raw())
            await response.aclose()
        else:
            sending.extensions["timeout"] |= {"read": 0.05}
            with pytest.raises(httpx.ReadTimeout):
                await http.send(sending)

    async def abandon_all() -> None:
        for _ in range(25):
            async with client(guarded) as http:
                await asyncio.gather(*(abandon(http, stream=bool(number % 2)) for number in range(16)))

    before = guarded.metric("llm_num_preemptions_total", **{"X-API-Key": OPERATOR})
    asyncio.run(abandon_all())
    wait_until_idle(guarded)
    assert guarded.metric("llm_num_preemptions_total", **{"X-API-Key": OPERATOR}) == before
    assert (
        httpx.post(f"{guarded.url}/generate", json=SAY, headers={"X-API-Key": OPERATOR})
        .json()["generated_text"]
        .endswith(RECITED)
    )


def post(body: bytes, path: str = "/v1/chat/completions", **headers: object) -> bytes:
    fields = {"Host": "server", "X-API-Key": OPERATOR, "Content-Length": len(body), "Connection": "close", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode() + body


def flood(server: Server, number: int) -> list[tuple[int, bytes, Any]]:
    """Status, head and answer of so many requests, each on a connection of its own, all at once."""
    address, sent = httpx.URL(server.url), post(json.dumps(SAY).encode(), "/v1/completions")

    async def send() -> tuple[int, bytes, Any]:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(sent)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), head, json.loads(body)

    async def send_all() -> list[tuple[int, bytes, Any]]:
        return await asyncio.gather(*(send() for _ in range(number)))

    return asyncio.run(send_all())


def test_in_a_flood_each_request_is_answered_or_told_when_to_return(guarded: Server) -> None:
    process = psutil.Process(guarded.process.pid)
    flood(guarded, 100)
    before = process.memory_info().rss
    answers = flood(guarded, 1000)
    counts = Counter(status for status, _, _ in answers)
    assert counts.keys() == {200, 429}
    assert counts[200] > MAX_BATCH
    for status, head, answer in answers:
        if status == 200:
            assert answer["choices"][0]["text"] == RECITED
        else:
            assert re.search(rb"\r\nretry-after: [1-9]", head)
            assert answer["error"]["code"] in ("queue_full", "queue_share")
            assert "try again in" in answer["error"]["message"]
    wait_until_idle(guarded)
    assert process.memory_info().rss - before < GROWTH


def test_a_greedy_key_leaves_room_in_the_queue_and_in_the_batch(guarded: Server) -> None:
    async def compete() -> None:
        async with client(guarded, GREEDY) as greedy, client(guarded, MODEST) as modest:
            flooding = [asyncio.create_task(greedy.post("/v1/completions", json=LONG)) for _ in range(100)]
            refused, _ = await asyncio.wait(flooding, return_when=asyncio.FIRST_COMPLETED)
            assert {(await task).json()["error"]["code"] for task in refused} <= {"queue_share"}
            assert (await modest.post("/v1/completions", json=SAY)).status_code == 200
            done = [task.result().status_code for task in flooding if task.done()]
            assert set(done) == {429}, "a short request waits for no long one of another key"
            for _ in range(5):
                assert (await modest.post("/v1/completions", json=SAY)).status_code == 200
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)

    asyncio.run(compete())
    wait_until_idle(guarded)


def test_keys_change_under_load_and_no_request_fails(guarded: Server, key_file: Path) -> None:
    """The modest account gets another key beside its own, and loses its first one, while it is used."""

    def reload(text: str) -> None:
        key_file.write_text(text, encoding="utf-8")
        guarded.process.send_signal(signal.SIGHUP)

    async def rotate() -> None:
        current, stop = MODEST, False
        statuses: Counter[int] = Counter()

        async def use(http: httpx.AsyncClient) -> None:
            while not stop:
                response = await http.post("/generate", json=SAY, headers={"X-API-Key": current})
                statuses[response.status_code] += 1

        async with client(guarded, "") as http:
            users = [asyncio.create_task(use(http)) for _ in range(6)]
            reload(accounts(modest=(MODEST, "sk-modest-2")))
            await asyncio.to_thread(guarded.wait_for, "reloaded")
            current = "sk-modest-2"
            begun = statuses.total()
            while statuses.total() < begun + 20:  # those with the former key have been answered
                await asyncio.sleep(0)
            reload(accounts(modest=("sk-modest-2",)))
            await asyncio.to_thread(guarded.wait_for, "reloaded")
            reload("this is no TOML")
            await asyncio.to_thread(guarded.wait_for, "not reloaded")
            old = await http.get("/v1/models", headers={"X-API-Key": MODEST})
            stop = True
            await asyncio.gather(*users)
        assert old.status_code == 401
        assert statuses.keys() == {200}

    asyncio.run(rotate())
    key_file.write_text(accounts(), encoding="utf-8")
    guarded.process.send_signal(signal.SIGHUP)
    guarded.wait_for("reloaded")


def test_an_accounts_limits_and_its_models(guarded: Server) -> None:
    with httpx.Client(base_url=guarded.url, headers={"X-API-Key": "sk-limited"}) as http:
        assert http.get("/v1/models").json()["data"] == []
        response = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        assert response.headers["x-ratelimit-limit-requests"] == "2"
    with httpx.Client(base_url=guarded.url, headers={"X-API-Key": MODEST}) as http:
        assert [card["id"] for card in http.get("/v1/models").json()["data"]] == ["llm"]


def chat(content: str, **fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}).encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(b"", X="a" * 2**20), 431),
        (post(b"[" * 100_000), 400),
        (post(b'{"messages": ' + b'[{"a":' * 50_000), 400),
        (post(b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}'), 400),
        (post(chat("Hi").replace(b"0}", b"NaN}")), 400),
        (post(chat("Hi").replace(b"0}", b"1e999}")), 400),
        (post(chat("Hi").replace(b"0}", b"1" * 10_000 + b"}")), 400),
        (post(chat("{{ 7 * 7 }}{% for x in range(10 ** 9) %}{{ x }}{% endfor %}")), 200),
        (post(chat("Hi", chat_template="{{ 7 * 7 }}")), 400),
        (post(chat("Hi", chat_template_kwargs={"messages": []})), 400),
        (post(chat("Hi", chat_template_kwargs={"x": "{{ cycler.__init__.__globals__ }}"})), 200),
        (post(b"\x00\x01\x02"), 400),
    ],
    ids=lambda value: None if isinstance(value, int) else f"{value[-20:]!r}",
)
def test_what_hostile_clients_send_gets_its_status_and_the_error_body(
    guarded: Server, sent: bytes, status: int
) -> None:
    fields, _, body = exchange(guarded, sent).partition(b"\r\n\r\n")
    assert fields.startswith(f"HTTP/1.1 {status} ".encode())
    answer = json.loads(body)
    if status == 200:
        assert answer["choices"][0]["message"]["content"] == RECITED.strip()
    else:
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert len(answer["error"]["message"]) < 500
        assert OPERATOR not in body.decode()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_takes_no_memory(guarded: Server, chunked: bool) -> None:
    process = psutil.Process(guarded.process.pid)
    before = process.memory_info().rss
    head = post(b"", Content_Length=100 * 2**20)
    if chunked:
        head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    piece = b"10000\r\n" + b" " * 65536 + b"\r\n" if chunked else b" " * 65536
    fields = exchange(guarded, head, *[piece] * 1600)
    assert not fields or fields.startswith(b"HTTP/1.1 413")  # the connection may break before the answer is read
    assert process.memory_info().rss - before < GROWTH
    assert httpx.get(f"{guarded.url}/health").status_code == 200


def test_a_reader_that_does_not_read_holds_up_nobody(guarded: Server) -> None:
    address = httpx.URL(guarded.url)
    process = psutil.Process(guarded.process.pid)
    before = process.memory_info().rss
    slow = []
    for _ in range(MAX_BATCH):
        connection = socket.create_connection((address.host, address.port or 80))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        body = json.dumps({**LONG, "n": 8, "stream": True, "logprobs": 20}).encode()
        connection.sendall(post(body, "/v1/completions"))
        slow.append(connection)
    for _ in range(5):
        response = httpx.post(f"{guarded.url}/generate", json=SAY, headers={"X-API-Key": MODEST}, timeout=60)
        assert response.json()["generated_text"] == "Say" + RECITED
    assert process.memory_info().rss - before < GROWTH
    for connection in slow:
        connection.close()
    wait_until_idle(guarded)


def test_nothing_of_a_key_is_written_anywhere(guarded: Server) -> None:
    """Of all that the tests above have sent, and of what the parser refuses."""
    malformed = exchange(guarded, b"GET / HTTP/1.1\r\nAuthorization Bearer sk-secret\r\n\r\n")
    assert malformed.startswith(b"HTTP/1.1 400")
    with httpx.Client(base_url=guarded.url) as http:
        errors = [
            http.get("/v1/models", headers={"Authorization": "Bearer sk-wrong"}).text,
            http.post("/generate", headers={"X-API-Key": GREEDY}, content=b"{").text,
        ]
        metrics = http.get("/metrics", headers={"X-API-Key": OPERATOR}).text
    log = json.dumps(guarded.log)
    for key in (GREEDY, MODEST, OPERATOR, "sk-modest-2", "sk-limited", "sk-secret", "sk-wrong"):
        for text in (log, metrics, *errors, malformed.decode()):
            assert key not in text
            assert digest(key)[:16] not in text
    assert '"account": "greedy"' in log
    assert RECITED.strip()[:2] not in log  # nor of a prompt, nor of an answer
    assert "Say" not in log


def test_sigterm_under_load(reciter: Path) -> None:
    """What was accepted is answered whole, what comes is refused, and the process ends well."""

    async def drain(server: Server) -> None:
        async with client(server) as http:
            body = {**LONG, "n": 3}
            begun = [asyncio.create_task(http.post("/v1/completions", json=body)) for _ in range(6)]
            async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                while server.metric("llm_num_requests_running") + server.metric("llm_num_requests_waiting") < 21:
                    await asyncio.sleep(0)
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(server.wait_for, "draining")
                late = await asyncio.gather(*(http.post("/generate", json=SAY) for _ in range(20)))
                assert {response.status_code for response in late} == {503}
                assert all(int(response.headers["retry-after"]) >= 1 for response in late)
                assert [line async for line in lines if line][-1] == "data: [DONE]"
            for response in await asyncio.gather(*begun):
                assert response.status_code == 200, response.text
                choices = response.json()["choices"]
                assert [choice["finish_reason"] for choice in choices] == ["length"] * 3

    with running(model_path=reciter, drain_grace=START) as server:
        asyncio.run(drain(server))
        assert server.process.wait(timeout=30) == 0


def test_over_tls_and_again_after_a_kill(reciter: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    settings = {"model_path": reciter, "tls_certificate": certificate, "tls_key": key}
    trusted = ssl.create_default_context(cafile=certificate)
    with running(**settings) as server:
        assert server.url.startswith("https://")
        answer = httpx.post(f"{server.url}/generate", json=SAY, verify=trusted, timeout=60)
        assert answer.json()["generated_text"] == "Say" + RECITED
        server.process.kill()
    with running(**settings, port=httpx.URL(server.url).port) as server:  # nothing of the former is in the way
        assert httpx.get(f"{server.url}/ready", verify=trusted).status_code == 200
