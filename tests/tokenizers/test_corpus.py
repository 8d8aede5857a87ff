"""The bundled corpus is what its script writes, and is well-formed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.tokenizers import CharacterTokenizer, render_chat

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "dummy_corpus.txt"


@pytest.fixture(scope="module")
def corpus() -> str:
    return SHIPPED.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documents(corpus) -> list[str]:
    return corpus.strip().split("\n\n")


def is_dialogue(document: str) -> bool:
    return document.startswith(("User: ", "System: "))


def write(output: Path, *options: str) -> str:
    script = ROOT / "scripts" / "make_corpus.py"
    subprocess.run([sys.executable, script, "--output", output, *options], check=True, capture_output=True)
    return output.read_text(encoding="utf-8")


def test_the_script_writes_the_shipped_file(corpus, tmp_path):
    assert write(tmp_path / "corpus.txt") == corpus


def test_another_seed_writes_other_documents(corpus, tmp_path):
    other = write(tmp_path / "corpus.txt", "--seed", "8", "--size", "50000")
    assert 50_000 <= len(other) < 55_000
    shared = set(other.strip().split("\n\n")) & set(corpus.strip().split("\n\n"))
    assert len(shared) <= 2


def test_size_and_variety(corpus, documents):
    assert 400_000 < len(corpus.encode()) < 700_000
    assert len(documents) == len(set(documents)) > 1000
    assert 1400 < len(set(re.findall(r"[a-z]+", corpus.lower()))) < 2600
    assert corpus.isascii()


def test_the_last_tenth_is_like_the_rest(documents):
    cut = len(documents) * 9 // 10
    train, validation = documents[:cut], documents[cut:]
    share = [sum(map(is_dialogue, part)) / len(part) for part in (train, validation)]
    assert abs(share[0] - share[1]) < 0.1
    known = set(re.findall(r"[a-z]+", " ".join(train).lower()))
    words = re.findall(r"[a-z]+", " ".join(validation).lower())
    assert sum(word not in known for word in words) / len(words) < 0.002


@pytest.mark.parametrize(
    "mistake",
    [
        r"[{}\[\]|]",  # a template that was not filled
        r"\b(\w+) \1\b",  # the the
        r"[.!?,]{2}",
        r"\ba [aeiou]",
        r"\ban [^aeiou]",
        r" [.,!?]",
        r"  ",
        r"(?<=[.!?] )\"?[a-z](?!hat am i$)",  # a sentence without a capital, except where a user types it
    ],
)
def test_spelling_and_punctuation(corpus, mistake):
    found = re.search(mistake, corpus, flags=re.MULTILINE)
    assert found is None, corpus[max(0, found.start() - 60) : found.end() + 60]


def test_every_speech_is_closed(documents):
    for document in documents:
        for paragraph in document.splitlines():
            assert paragraph.count('"') % 2 == 0, paragraph


def test_dialogues_are_in_the_default_chat_format(documents):
    tokenizer = CharacterTokenizer([])
    for document in filter(is_dialogue, documents):
        turns = [line.split(": ", 1) for line in document.splitlines()]
        messages = [{"role": role.lower(), "content": content} for role, content in turns]
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert render_chat(tokenizer, messages, add_generation_prompt=False) == document + "\n"


def test_a_story_is_about_the_requested_character(documents):
    request = re.compile(r"story about an? (?:\w+ )?(\w+) named (\w+)[.?]?\nAssistant: (.*)", re.IGNORECASE)
    found = [match.groups() for document in documents for match in request.finditer(document)]
    assert len(found) > 30
    for animal, name, story in found:
        assert re.search(rf"\b{animal} named {name}\b", story, re.IGNORECASE)
