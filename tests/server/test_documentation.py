"""What the server says of itself: /openapi.json, /docs, /version; and routes by their other names."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema
import pytest

from llm_jax import __version__
from server.app import OPERATIONS
from server.http.openapi import at_most

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = http.get("/openapi.json").json()
    return document


def validator(document: dict[str, Any], name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**document, "$ref": f"#/components/schemas/{name}"})


def test_every_route_is_in_the_document(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {operation.path_format for operation in OPERATIONS}
    for methods in document["paths"].values():
        assert set(methods) in ({"post"}, {"get", "head"})
        for operation in methods.values():
            assert operation["summary"]
            assert {"200", "500", "503"} <= operation["responses"].keys()


def test_its_schemas_are_json_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_its_examples_are_answered(http: httpx.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        if "post" in methods and "lora_adapter" not in path:  # for the administrator's key, see test_adapters.py
            example = methods["post"]["requestBody"]["content"]["application/json"]["example"]
            assert http.post(path, json=example).status_code == 200


@pytest.mark.parametrize(
    ("change", "is_valid"),
    [
        ({}, True),
        ({"temperature": None, "stop": None}, True),
        ({"stop": ["a", "b"]}, True),
        ({"messages": []}, False),
        ({"messages": None}, False),
        ({"messages": [{"role": "wizard", "content": "a"}]}, False),
        ({"temperature": 2.1}, False),
        ({"max_tokens": 0}, False),
        ({"nonsense": 1}, False),
        ({"stop_token_ids": [259], "logit_bias": {"259": 1}}, True),  # the vocabulary's last
        ({"stop_token_ids": [260]}, False),
        ({"logit_bias": {"260": 1}}, False),
        ({"max_tokens": 512}, False),  # a prompt would have none
        ({"min_tokens": 512}, False),
        ({"response_format": {"type": "json_schema"}}, False),
        ({"guided_choice": [""]}, False),
    ],
)
def test_its_schemas_take_what_the_server_takes(
    http: httpx.Client, document: dict[str, Any], change: dict[str, Any], is_valid: bool
) -> None:
    body = {**CHAT, **change}
    assert validator(document, "ChatBody").is_valid(body) is is_valid
    assert (http.post("/v1/chat/completions", json=body).status_code == 200) is is_valid


@pytest.mark.parametrize(
    ("path", "schema", "body", "is_valid"),
    [
        ("/v1/responses", "ResponseBody", {"input": [{"type": "reasoning"}], "instructions": "Be kind."}, False),
        ("/v1/responses", "ResponseBody", {"input": [{"type": "reasoning"}, {"role": "user", "content": ""}]}, True),
        ("/v1/responses", "ResponseBody", {"input": "a", "chat_template_kwargs": {"tools": 1}}, False),
        ("/v1/responses", "ResponseBody", {"input": "a", "chat_template_kwargs": {"tokenizer": 1}}, True),
        ("/v1/embeddings", "EmbeddingBody", {"input": ""}, False),
        ("/v1/embeddings", "EmbeddingBody", {"input": [[259]], "dimensions": 264}, True),
        ("/v1/embeddings", "EmbeddingBody", {"input": "a", "dimensions": 265}, False),
        ("/detokenize", "DetokenizeBody", {"tokens": [259]}, True),  # a row of the vocabulary that is no token
        ("/detokenize", "DetokenizeBody", {"tokens": [260]}, False),
        ("/tokenize", "TokenizeChatBody", {**CHAT, "max_tokens": 5000}, True),
    ],
)
def test_the_limits_of_other_routes(
    http: httpx.Client, document: dict[str, Any], path: str, schema: str, body: dict[str, Any], is_valid: bool
) -> None:
    assert validator(document, schema).is_valid(body) is is_valid
    assert (http.post(path, json=body).status_code == 200) is is_valid


@pytest.mark.parametrize("number", [0, 7, 10, 99, 259, 1000])
def test_a_pattern_of_integers_up_to_one(number: int) -> None:
    pattern = re.compile(at_most(number))
    assert [n for n in range(11000) if pattern.fullmatch(str(n))] == list(range(number + 1))
    assert not pattern.fullmatch("007")


def test_the_operators_routes_want_a_key_on_a_server_that_wants_none(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/load_lora_adapter"]["post"]
    assert operation["security"]
    assert "401" in operation["responses"]
    assert "security" not in document["paths"]["/v1/models"]["get"]


def test_errors_have_the_shape_that_it_declares(http: httpx.Client, document: dict[str, Any]) -> None:
    for response in (http.get("/nowhere"), http.post("/generate", json={}), http.delete("/version")):
        assert validator(document, "Error").is_valid(response.json())


class Links(HTMLParser):
    """The addresses that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_page_shows_every_route_and_loads_nothing_else(http: httpx.Client, document: dict[str, Any]) -> None:
    response = http.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert all(f" {path}</code>" in response.text for path in document["paths"])
    links = Links()
    links.feed(response.text)
    assert {link for link in links.found if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in links.found if link.startswith("#")} <= document["components"]["schemas"].keys()


def test_the_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": __version__}


@pytest.mark.parametrize("path", ["/models", "/models/", "/v1/models/", "/models/llm", "/v1/models/llm/"])
def test_other_names_of_a_route(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.json() == http.get("/v1/models/llm" if "llm" in path else "/v1/models").json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", CHAT),
        ("/v1/chat/completions/", CHAT),
        ("/completions", {"prompt": "Say"}),
        ("/v1/generate", {"prompt": "Say"}),
        ("/v1/tokenize", {"prompt": "Say"}),
    ],
)
def test_other_names_of_a_route_that_reads_a_body(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    assert http.post(path, json=body).status_code == 200


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v1/audio/transcriptions", "/v1/images/generations"])
def test_what_is_not_supported_is_refused_by_name(http: httpx.Client, path: str) -> None:
    response = http.post(path, json={})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unsupported_route"
    assert "not supported" in response.json()["error"]["message"]
