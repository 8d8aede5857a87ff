"""/v1/embeddings: the mean of the last hidden states, in every form that it can be asked for."""

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from llm_jax.checkpoint import load_model
from tests.server.tiny import CONTEXT, TOKENS

TEXTS = ["Say", "Hi 😀"]


@pytest.fixture(scope="module")
def expected(reciter: Path) -> list[np.ndarray]:
    """Of the model that recites a token's hidden state is its one-hot embedding, normalised: the mean is of those."""
    loaded = load_model(reciter)
    assert loaded.tokenizer
    width = loaded.model.config.hidden_size
    vectors = []
    for text in TEXTS:
        counts = np.bincount(loaded.tokenizer.encode(text), minlength=width).astype(np.float64)
        vectors.append(counts / np.linalg.norm(counts))
    return vectors


def test_vectors_are_means_of_hidden_states_of_unit_length(client: openai.OpenAI, expected: list[np.ndarray]) -> None:
    answer = client.embeddings.create(model="llm", input=TEXTS)  # asks for base64
    assert [entry.index for entry in answer.data] == [0, 1]
    for entry, vector in zip(answer.data, expected, strict=True):
        np.testing.assert_allclose(entry.embedding, vector, atol=1e-5)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text.encode()) for text in TEXTS)


def test_the_forms_of_a_vector_agree(http: httpx.Client) -> None:
    def vector(**fields: Any) -> Any:
        answer = http.post("/v1/embeddings", json={"input": TEXTS[0], **fields}).json()
        return answer["data"][0]["embedding"]

    floats = vector()
    assert floats == vector(encoding_format="float")
    encoded = np.frombuffer(base64.b64decode(vector(encoding_format="base64")), "<f4")
    np.testing.assert_array_equal(encoded, np.array(floats, np.float32))


def test_ids_and_texts_give_the_same(http: httpx.Client) -> None:
    ids = [http.post("/tokenize", json={"prompt": text}).json()["tokens"] for text in TEXTS]
    inputs: list[Any] = [TEXTS, ids]
    answers = [http.post("/v1/embeddings", json={"input": given}).json()["data"] for given in inputs]
    assert answers[0] == answers[1]
    alone = http.post("/v1/embeddings", json={"input": ids[1]}).json()["data"]
    np.testing.assert_allclose(alone[0]["embedding"], answers[0][1]["embedding"], atol=1e-6)


def test_fewer_dimensions_are_the_first_ones_of_unit_length(http: httpx.Client, expected: list[np.ndarray]) -> None:
    answer = http.post("/v1/embeddings", json={"input": TEXTS, "dimensions": 90}).json()
    for entry, vector in zip(answer["data"], expected, strict=True):
        cut = vector[:90] / np.linalg.norm(vector[:90])
        np.testing.assert_allclose(entry["embedding"], cut, atol=1e-5)


def test_more_texts_than_the_queue_takes(http: httpx.Client) -> None:
    texts = [f"text number {n}" for n in range(300)]
    together = http.post("/v1/embeddings", json={"input": texts}).json()["data"]
    assert [entry["index"] for entry in together] == list(range(300))
    alone = http.post("/v1/embeddings", json={"input": texts[7]}).json()["data"][0]
    np.testing.assert_allclose(together[7]["embedding"], alone["embedding"], atol=1e-6)
    answer = http.post("/generate", json={"prompt": "Say", "temperature": 0}).json()
    assert answer["token_count"] == TOKENS


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [[]]}, "input[0]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": "y" * (CONTEXT + 1)}, "input"),
        ({"input": [99999]}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 265}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_bad_field_is_a_400_that_names_it(http: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = http.post("/v1/embeddings", json={"input": "Say", **change})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
