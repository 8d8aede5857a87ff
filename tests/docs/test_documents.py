"""Every code block of the README and of the usage guide runs, from top to bottom, as a reader would run it."""

import json
import re
import shutil
from pathlib import Path

import pytest

from llm_jax.training.config import load_train_config
from tests.docs.blocks import Block, code_blocks
from tests.docs.workplace import ROOT, Workplace

DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "usage.md"]
BLOCKS = [pytest.param(path.name, block, id=block.place) for path in DOCUMENTS for block in code_blocks(path)]


@pytest.mark.parametrize(("workplace", "block"), BLOCKS, indirect=["workplace"], scope="module")
def test_block(workplace: Workplace, block: Block, tmp_path: Path) -> None:
    if block.not_run:
        pytest.skip(block.not_run)
    match block.language:
        case "bash" | "python":
            if "curl " in block.text and shutil.which("curl") is None:
                pytest.skip("this machine has no curl")
            workplace.run(block.language, block.text)
        case "json":
            json.loads(block.text)
        case "yaml":
            (tmp_path / "config.yaml").write_text(block.text)
            load_train_config(tmp_path / "config.yaml", environ={})
        case "text" | "mermaid":
            pass
        case other:
            pytest.fail(f"{block.place}: say which language this is, not {other!r}")


def test_the_documents_show_code() -> None:
    assert len(BLOCKS) > 20


@pytest.mark.parametrize("document", [*DOCUMENTS, *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
