"""/generate and /batch_generate."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.server.tiny import CONTEXT, RECITED, TOKENS

GREEDY = {"temperature": 0.0}


def frames(response: httpx.Response) -> list[str]:
    """The data of each server-sent event."""
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [event for event in response.text.split("\n\n") if event and not event.startswith(":")]
    assert all(event.startswith("data: ") for event in events)
    return [event.removeprefix("data: ") for event in events]


def test_the_answer_is_prompt_and_completion(http: httpx.Client) -> None:
    answer = http.post("/generate", json={"prompt": "Say", **GREEDY}).json()
    assert answer == {"generated_text": "Say" + RECITED, "token_count": TOKENS, "finish_reason": "stop"}


def test_the_documented_body_is_taken_as_it_stands(http: httpx.Client) -> None:
    body = {
        "prompt": "Hello, world",
        "max_new_tokens": 50,
        "temperature": 0.8,
        "top_k": 5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "stream": False,
    }
    answer = http.post("/generate", json=body).json()
    assert answer["generated_text"].startswith("Hello, world")
    assert 1 <= answer["token_count"] <= 50


def test_length_ends_at_max_new_tokens(http: httpx.Client) -> None:
    answer = http.post("/generate", json={"prompt": "Say", "max_new_tokens": 3, **GREEDY}).json()
    assert answer == {"generated_text": "Say Hi", "token_count": 3, "finish_reason": "length"}


def test_streamed_pieces_are_whole_characters_and_make_the_same_text(http: httpx.Client) -> None:
    *pieces, end, done = frames(http.post("/generate", json={"prompt": "Say", "stream": True, **GREEDY}))
    texts = [json.loads(piece)["text"] for piece in pieces]
    assert "".join(texts) == RECITED
    assert "😀" in texts
    assert "中" in texts
    assert json.loads(end) == {"finish_reason": "stop", "token_count": TOKENS}
    assert done == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("stop", "text"), [("😀", " Hi"), (["中", "zzz"], " Hi😀,"), ("Hi😀", " ")])
def test_text_ends_before_a_stop_string(http: httpx.Client, stop: Any, text: str, stream: bool) -> None:
    response = http.post("/generate", json={"prompt": "Say", "stop": stop, "stream": stream, **GREEDY})
    if stream:
        *pieces, end, _ = frames(response)
        assert "".join(json.loads(piece)["text"] for piece in pieces) == text
        assert json.loads(end)["finish_reason"] == "stop"
    else:
        assert response.json()["generated_text"] == "Say" + text
        assert response.json()["finish_reason"] == "stop"


def test_a_seed_fixes_the_text_and_its_absence_does_not(http: httpx.Client) -> None:
    body = {"prompt": "Say", "temperature": 5.0, "max_new_tokens": 20}
    texts = [http.post("/generate", json={**body, **extra}).json()["generated_text"] for extra in [{"seed": 7}] * 2]
    assert texts[0] == texts[1]
    free = {http.post("/generate", json=body).json()["generated_text"] for _ in range(3)}
    assert len(free) > 1


def test_requests_at_once_get_what_each_gets_alone(http: httpx.Client) -> None:
    bodies = [
        {"prompt": "Say" * n, "temperature": 5.0, "seed": n, "max_new_tokens": 5 + 7 * n, "top_k": 50 * (n % 3)}
        for n in range(1, 9)
    ]
    alone = [http.post("/generate", json=body).json() for body in bodies]
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: http.post("/generate", json=body).json(), bodies))
    assert together == alone


def test_a_batch_gives_each_prompt_what_it_gets_alone(http: httpx.Client) -> None:
    settings = {"temperature": 5.0, "seed": 3, "max_new_tokens": 12}
    prompts = ["Say", "Say it, please, in one breath", "中", ""]
    alone = [http.post("/generate", json={"prompt": prompt, **settings}).json() for prompt in prompts]
    batch = http.post("/batch_generate", json={"prompts": prompts, **settings}).json()
    assert batch == {"results": alone}


def test_a_bias_bars_a_token(http: httpx.Client) -> None:
    body = {"prompt": "Say", "logit_bias": {"0": -100}, "max_new_tokens": 30, **GREEDY}
    answer = http.post("/generate", json=body).json()
    assert (answer["token_count"], answer["finish_reason"]) == (30, "length")


def test_the_default_length_shrinks_to_what_the_context_still_takes(http: httpx.Client) -> None:
    prompt = "y" * (CONTEXT - 5)
    answer = http.post("/generate", json={"prompt": prompt, **GREEDY}).json()
    assert (answer["token_count"], answer["finish_reason"]) == (5, "length")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": "y" * 600}, "prompt"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": CONTEXT}, "max_new_tokens"),
        ({"max_new_tokens": "5"}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"stream": "yes"}, "stream"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_a_bad_field_is_a_422_that_names_it(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = http.post("/generate", json={"prompt": "Say", **change})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param.split("[")[0] in error["message"]


@pytest.mark.parametrize("prompts", [[], ["a"] * 33, "a", [1], ["a", None]])
def test_a_batch_has_1_to_32_prompts(http: httpx.Client, prompts: Any) -> None:
    response = http.post("/batch_generate", json={"prompts": prompts})
    assert response.status_code == 422
    assert response.json()["error"]["param"].startswith("prompts")


def test_nulls_are_defaults(http: httpx.Client) -> None:
    nulls = dict.fromkeys(["max_new_tokens", "top_k", "top_p", "min_p", "seed", "stop", "logit_bias", "stream"])
    answer = http.post("/generate", json={"prompt": "Say", **nulls, "temperature": 0.0}).json()
    assert answer["generated_text"] == "Say" + RECITED
