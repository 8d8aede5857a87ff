"""The code that users of this API were promised, held apart from our documents so that no edit of them can break it.

`promised_examples` holds it in the guide's order, unchanged but for its comments and for `...` where the guide leaves
the rest of a command to the reader.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.workplace import DOCUMENTED_PORT, Workplace, free_port

EXAMPLES = sorted(Path(__file__).with_name("promised_examples").iterdir())
LANGUAGES = {".py": "python", ".sh": "bash"}
# What an example's output must hold; the others must only end well.
PRINTS = {
    "train_help.sh": "--task",
    "generate_simple.py": "Hello",
    "generate_huggingface.py": "Once upon a time",
    "generate.sh": '"token_count"',
    "generate_stream.sh": "data: [DONE]",
    "metrics.sh": "llm_",
    "benchmark.sh": "tokens per second",
    "chat_api_key.sh": '"finish_reason"',
    "chat_bearer.sh": '"finish_reason"',
    "generate_with_key.sh": '"generated_text"',
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Here alone the server has the documented port, unless something outside of the tests has it."""
    with Workplace(tmp_path_factory.mktemp("guide"), free_port(DOCUMENTED_PORT)) as place:
        yield place


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_promised_example(workplace: Workplace, example: Path) -> None:
    code = example.read_text(encoding="utf-8")
    if "curl " in code and shutil.which("curl") is None:
        pytest.skip("this machine has no curl")
    printed = workplace.run(LANGUAGES[example.suffix], code)
    expected = PRINTS.get(example.name.partition("_")[2], "")
    assert expected.lower() in printed.lower()


def test_every_expectation_has_its_example() -> None:
    assert PRINTS.keys() <= {example.name.partition("_")[2] for example in EXAMPLES}
