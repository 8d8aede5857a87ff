"""Small inputs that went wrong once, each with its whole kind; those of the wire are in test_wire.py."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jax
import pytest

from server.served_model import MOST_FAILURES
from tests.server.in_process import SETTINGS, App, serving
from tests.server.tiny import CONTEXT, RECITED, save_reciter

CHAT = "/v1/chat/completions"
ASK: Any = [{"role": "user", "content": "Say"}]
ENDLESS: Any = {"max_tokens": 400, "logit_bias": {"0": -100}}


@pytest.fixture(scope="module")
def narrow(reciter: Path) -> Iterator[App]:
    """One slot, and hardly any patience."""
    settings = replace(SETTINGS, max_batch=1, queue_timeout=0.3, stream_ping=0.05)
    with serving(reciter, settings) as app:
        while app.request("/generate", prompt="Say", max_new_tokens=1).status_code != 200:
            pass  # its programs are being compiled
        yield app


def test_prompts_of_one_request_do_not_time_out_behind_each_other_and_others_do(narrow: App) -> None:
    many = {"prompt": ["Say"] * 6, **ENDLESS}
    one = {"prompt": "Say", **ENDLESS}
    first, second, waiting = narrow.requests(*(("/v1/completions", b) for b in (many, one, {**one, "stream": True})))
    assert first.status_code == 200
    assert [choice["finish_reason"] for choice in first.json()["choices"]] == ["length"] * 6
    assert second.status_code == 503  # of another request: it did wait for a slot
    assert second.json()["error"]["code"] == "queue_timeout"
    assert int(second.headers["retry-after"]) >= 1
    assert waiting.status_code == 200  # a stream gets comments, and its first error as an event
    *comments, event = [frame for frame in waiting.text.split("\n\n") if frame]
    assert comments
    assert all(comment.startswith(":") for comment in comments)
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "queue_timeout"


def test_an_engine_that_fails_each_time_fails_its_requests_and_health(reciter: Path) -> None:
    """As when the device has lost its memory: here the weights are gone."""
    with serving(reciter) as app:
        for array in jax.tree.leaves(app.model._engine._runner._model.params):
            array.delete()
        statuses = []
        for _ in range(MOST_FAILURES):
            statuses.append(app.get("/health").status_code)
            error = app.request("/generate", prompt="Say").json()["error"]
            assert (error["code"], error["type"]) == ("internal_error", "server_error")
        assert statuses == [200] * MOST_FAILURES
        assert [app.get(path).status_code for path in ("/health", "/ready")] == [503, 503]
        assert app.get("/health").json()["error"]["code"] == "engine_failed"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085"])
def test_a_stream_can_be_split_into_lines_by_any_reader(tmp_path: Path, separator: str) -> None:
    with serving(save_reciter(tmp_path / "m", f" a{separator}b")) as app:
        text = app.request("/generate", prompt="Say", temperature=0, stream=True).text
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    pieces = [json.loads(line).get("text", "") for line in lines if line != "[DONE]"]
    assert "".join(pieces) == f" a{separator}b"


FAILING = ["m.x | tojson", "'x' + 1", "1 / 0", "m.a.b", "raise_exception('no')", "'{:d}'.format('a')", "range(10**9)"]


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Its chat template fails in the way whose number the message is."""
    cases = "".join(f"{{% if m.content == '{i}' %}}{{{{ {code} }}}}{{% endif %}}" for i, code in enumerate(FAILING))
    template = "{% for m in messages %}" + cases + "{% endfor %}"
    with serving(save_reciter(tmp_path_factory.mktemp("models") / "m", chat_template=template)) as app:
        yield app


@pytest.mark.parametrize("number", range(len(FAILING)))
@pytest.mark.parametrize("stream", [False, True])
def test_a_template_that_fails_is_a_400_on_messages(failing: App, number: int, stream: bool) -> None:
    error = failing.refusal(CHAT, messages=[{"role": "user", "content": str(number)}], stream=stream)
    assert error["param"] == "messages"
    assert "chat template" in error["message"]


REPLAYED: list[Any] = [
    {"role": "assistant", "content": None},
    {"role": "assistant"},
    {"role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "function_call": None},
    {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": [], "reasoning_content": "so", "name": "a"},
    {"role": "assistant", "content": [{"type": "text", "text": "Hi"}, {"type": "refusal", "refusal": "no"}]},
    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}]},
    {"role": "assistant", "content": "", "provider_specific_fields": {"refusal": None}, "tool_calls": None},
    {"role": "user", "content": "Hi", "name": "Ada"},
    {"role": "system", "content": "Be brief.", "name": "rules"},
    {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "tool", "content": "42", "tool_call_id": "1"},
]


@pytest.mark.parametrize("message", REPLAYED, ids=str)
def test_messages_as_clients_and_other_servers_have_them(http: httpx.Client, message: Any) -> None:
    response = http.post(CHAT, json={"messages": [*ASK, message, *ASK], "temperature": 0})
    assert response.json()["choices"][0]["message"]["content"] == RECITED.strip()


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video_url"])
def test_parts_that_are_no_text_are_refused_by_name(http: httpx.Client, kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {}}]}]
    error = http.post(CHAT, json={"messages": messages}).json()["error"]
    assert error["param"] == "messages[0].content[1].type"
    assert kind in error["message"]


@pytest.mark.parametrize(
    ("prompt", "param", "words"),
    [
        ([1, None], "prompt[1]", "token id"),
        ([], "prompt", "list of texts"),
        (["a", 1], "prompt[1]", "text"),
        ([1, "a"], "prompt[1]", "token id"),
        ([[1, 2], [3, "a"]], "prompt[1][1]", "token id"),
        ([[1], []], "prompt[1]", "token ids"),
        ([[1], 2], "prompt[1]", "token ids"),
        ([True], "prompt[0]", "token id"),
        ([1.5], "prompt[0]", "token id"),
        (7, "prompt", "give text"),
        ({"a": 1}, "prompt", "give text"),
    ],
    ids=str,
)
def test_the_entry_of_a_prompt_that_is_wrong_is_named(http: httpx.Client, prompt: Any, param: str, words: str) -> None:
    error = http.post("/v1/completions", json={"prompt": prompt}).json()["error"]
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "y" * 600}]}),
        (CHAT, {"messages": ASK, "max_tokens": CONTEXT}),
        ("/v1/completions", {"prompt": "y" * 600}),
        ("/v1/completions", {"prompt": "Say", "max_tokens": CONTEXT - 2}),
        ("/generate", {"prompt": "y" * 600}),
    ],
    ids=str,
)
def test_what_exceeds_the_context_is_said_in_words_that_clients_know(http: httpx.Client, path: str, body: Any) -> None:
    error = http.post(path, json=body).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"maximum context length is {CONTEXT} tokens" in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 10**400),
        ("max_tokens", -(10**400)),
        ("seed", 10**400),
        ("top_k", 10**400),
        ("temperature", 10**300),
        ("prompt", [10**400]),
        ("prompt", [10**20]),
        ("stop_token_ids", [10**400]),
        ("logit_bias", {"1" * 400: 1}),
        ("logit_bias", {"1_0": 1}),
        ("logit_bias", {"+1": 1}),
        ("logit_bias", {" 1": 1}),
        ("logit_bias", {"01": 1}),
        ("logit_bias", {"\u0661": 1}),
        ("logit_bias", {"": 1}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_numbers_beyond_reason_are_refused_in_few_words(http: httpx.Client, field: str, value: Any) -> None:
    response = http.post("/v1/completions", content=json.dumps({"prompt": "Say", field: value}))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(field)
    assert len(error["message"]) < 250


def test_a_number_without_a_fraction_is_an_integer(http: httpx.Client) -> None:
    whole = http.post("/v1/completions", content='{"prompt": [83.0, 97, 1.21e2], "max_tokens": 3.0, "temperature": 0}')
    assert whole.json()["choices"][0]["text"] == RECITED[:3]
    fraction = http.post("/v1/completions", content='{"prompt": "Say", "max_tokens": 3.5}')
    assert (fraction.status_code, fraction.json()["error"]["param"]) == (400, "max_tokens")
