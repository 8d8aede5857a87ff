"""Every code block of the README and of the usage guide runs, from top to bottom, as a reader would run it.

What documents link to, and what of the code they name, is there.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from llm_jax.training.config import load_train_config
from tests.docs.blocks import Block, code_blocks
from tests.docs.workplace import ROOT, Workplace

DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "usage.md"]
CODE = ["llm", "llm_jax", "llm_torch_compat", "cli", "server", "benchmarks", "scripts", "configs", "deploy", "tests"]
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


@pytest.mark.parametrize("document", ["architecture.md", "development.md"])
def test_names_in_code_style_are_in_the_code(document: str) -> None:
    """Names of functions, classes, fields and files, as `engine.py` and `TextStream`."""
    suffixes = (".py", ".cc", ".h", ".toml", ".yaml", ".json")
    paths = [*ROOT.glob("*"), *(path for folder in CODE for path in (ROOT / folder).rglob("*"))]
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths if path.is_file() and path.suffix in suffixes)
    files = {path.name for path in paths}
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    names = set(re.findall(r"`([A-Za-z_][\w./]*)`", text))
    known = {name for name in names if Path(name).name in files or name.split(".")[-1].split("/")[-1] in code}
    assert names - known == set()
