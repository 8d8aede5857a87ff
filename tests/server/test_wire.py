"""HTTP on the wire: what clients may send that is unusual, and what the parser refuses."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from tests.server.live import Server, exchange
from tests.server.tiny import RECITED

SAY: Any = {"prompt": "Say", "temperature": 0}
BODY = json.dumps(SAY).encode()
STREAM = json.dumps({**SAY, "stream": True}).encode()


def head(target: str = "/generate", version: str = "1.1", body: bytes = BODY, **headers: str) -> bytes:
    lines = [f"POST {target} HTTP/{version}", "Host: server", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def test_an_offered_upgrade_is_declined_by_an_answer(server: Server) -> None:
    headers = {"Connection": "Upgrade, HTTP2-Settings, close", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABkAAQAoAAA"}
    answer = exchange(server, head(**headers), BODY)
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["generated_text"] == "Say" + RECITED


def test_a_stream_for_http_1_0_has_no_chunk_sizes(server: Server) -> None:
    answer = exchange(server, head(version="1.0", body=STREAM), STREAM)
    fields, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in fields.lower()
    assert all(line.startswith(b"data: ") for line in body.split(b"\n") if line)
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_a_client_that_closes_its_sending_side_gets_its_answer(server: Server, body: bytes) -> None:
    answer = exchange(server, head(body=body), body, half_close=True)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"[DONE]" in answer or b"generated_text" in answer


def test_a_client_that_waits_with_a_closed_side_may_get_interim_responses_first(server: Server) -> None:
    sent = json.dumps({"prompt": ["Say"] * 8, "max_tokens": 450, "logit_bias": {"0": -100}}).encode()
    answer = exchange(server, head("/v1/completions", body=sent), sent, half_close=True)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(interim)
    assert answer.replace(interim, b"").startswith(b"HTTP/1.1 200")


def test_half_a_request_gets_none(server: Server) -> None:
    assert exchange(server, head(), BODY[:5], half_close=True) == b""


def test_a_target_in_absolute_form(server: Server) -> None:
    answer = exchange(server, head("http://server/generate", Connection="close"), BODY)
    assert answer.startswith(b"HTTP/1.1 200")
    assert exchange(server, b"GET HTTP://Server/nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 404"
    )


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET /" + b"a" * 100_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000, 431),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: odd\r\n\r\n", 501),
    ],
)
def test_what_the_parser_refuses_has_the_error_body(server: Server, request_head: bytes, status: int) -> None:
    fields, _, body = exchange(server, request_head).partition(b"\r\n\r\n")
    assert fields.startswith(f"HTTP/1.1 {status} ".encode())
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def in_members(body: bytes) -> bytes:
    return gzip.compress(body[:9]) + gzip.compress(b"") + gzip.compress(body[9:])


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("gzip", in_members), ("deflate", zlib.compress)]
)
def test_a_compressed_body(http: httpx.Client, coding: str, compress: Any, chunked: bool) -> None:
    data = compress(BODY)
    content = iter([data[:7], data[7:]]) if chunked else data
    response = http.post("/generate", content=content, headers={"Content-Encoding": coding})
    assert response.json()["generated_text"] == "Say" + RECITED


@pytest.mark.parametrize(
    ("content", "coding", "status"),
    [
        (gzip.compress(b'{"prompt": "' + b"y" * 2**21 + b'"}'), "gzip", 413),
        (gzip.compress(BODY)[:-9], "gzip", 422),
        (BODY, "gzip", 422),
        (BODY, "br", 415),
    ],
    # a gzip header holds the time, and names that differ between two workers end the run
    ids=["too large", "cut", "plain", "another coding"],
)
def test_a_compressed_body_that_is_none_or_too_large(
    http: httpx.Client, content: bytes, coding: str, status: int
) -> None:
    response = http.post("/generate", content=content, headers={"Content-Encoding": coding})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
