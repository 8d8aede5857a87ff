"""Without a model path, the server answers with the model that ships: sentences in the words of the corpus."""

import re
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.server.live import running

CORPUS = Path(__file__).parents[2] / "data" / "dummy_corpus.txt"


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with running(max_model_len=128) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
        yield client


def test_a_story_is_made_of_words_of_the_corpus(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="llm", prompt="Once upon a time", max_tokens=60, temperature=0.5, seed=1)
    told = words(answer.choices[0].text)
    known = set(words(CORPUS.read_text(encoding="utf-8")))
    assert len(told) > 20
    assert sum(word in known for word in told) >= 0.9 * len(told)


def test_a_chat_ends_where_the_turn_ends(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="llm", messages=[{"role": "user", "content": "Hello!"}], temperature=0.5, seed=1
    )
    content = answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert content == content.strip() != ""
    assert "User:" not in content
