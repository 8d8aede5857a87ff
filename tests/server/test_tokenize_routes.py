"""/tokenize and /detokenize."""

from typing import Any

import httpx
import pytest

from tests.server.tiny import CONTEXT, RECITED

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize("text", ["Say", RECITED, "", "a\u2028b\x00"])
def test_there_and_back(http: httpx.Client, text: str) -> None:
    answer = http.post("/tokenize", json={"model": "llm", "prompt": text}).json()
    assert (answer["count"], answer["max_model_len"]) == (len(answer["tokens"]), CONTEXT)
    assert answer["token_strs"] is None
    assert http.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}


def test_it_counts_what_a_completion_is_charged_for(http: httpx.Client) -> None:
    for path, field, value in (("completions", "prompt", "Say"), ("chat/completions", "messages", HELLO)):
        usage = http.post(f"/v1/{path}", json={field: value, "max_tokens": 1}).json()["usage"]
        assert http.post("/tokenize", json={field: value}).json()["count"] == usage["prompt_tokens"]


def test_the_strings_of_tokens(http: httpx.Client) -> None:
    answer = http.post("/tokenize", json={"prompt": "Say", "return_token_strs": True}).json()
    assert answer["token_strs"] == ["S", "a", "y"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HELLO, "chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs.tools"),
        ("/tokenize", {"prompt": "a", "nonsense": 1}, "nonsense"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, 260]}, "tokens[1]"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    response = http.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
