"""The files of a tokenizer directory, in the layout of transformers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from llm_jax.errors import TokenizerError
from llm_jax.tokenizers.base import ChatTemplate
from llm_jax.tokenizers.declared import ADDED

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"  # written form -> id, of an older layout
TEMPLATE = "chat_template.jinja"
NAMED_TEMPLATES = "additional_chat_templates"


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer on disk.

    Attributes:
        tokenizer: the text of tokenizer.json.
        config: tokenizer_config.json without its chat template.
        chat_template: from any of the files that may hold it.
    """

    tokenizer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None

    @classmethod
    def read(cls, path: str | Path) -> "TokenizerFiles":
        """Read a directory, or a tokenizer.json and the files beside it.

        Raises:
            TokenizerError: a file is missing or is not JSON.
        """
        path = Path(path)
        tokenizer = path / TOKENIZER if path.is_dir() else path
        if not tokenizer.is_file():
            raise TokenizerError(f"There is no tokenizer at {path}: expected {TOKENIZER} or a directory that holds it.")
        directory = tokenizer.parent
        config = _read_json(directory / SPECIAL_TOKENS) | _read_json(directory / CONFIG)
        inline_template = config.pop("chat_template", None)
        added = {str(index): {"content": token} for token, index in _read_json(directory / ADDED_TOKENS).items()}
        return cls(
            tokenizer=_read_text(tokenizer),
            config={ADDED: added} | config if added else config,
            chat_template=_read_templates(directory) or _from_config(inline_template),
        )

    def write(self, directory: str | Path) -> None:
        """Write the files into `directory`, which is created if it is missing."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / TOKENIZER).write_text(self.tokenizer, encoding="utf-8")
        config = json.dumps(self.config, ensure_ascii=False, indent=2, sort_keys=True)
        (directory / CONFIG).write_text(config + "\n", encoding="utf-8")
        templates = {"default": self.chat_template} if isinstance(self.chat_template, str) else self.chat_template or {}
        for name, source in templates.items():
            path = directory / TEMPLATE if name == "default" else directory / NAMED_TEMPLATES / f"{name}.jinja"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")

    def backend(self) -> Backend:
        """The tokenizer that tokenizer.json describes.

        Raises:
            TokenizerError: the file is damaged.
        """
        try:
            return Backend.from_str(self.tokenizer)
        except Exception as error:  # the library raises plain Exception
            _parse_json(self.tokenizer, TOKENIZER)
            raise TokenizerError(f"{TOKENIZER} cannot be read: {error}. Save the tokenizer again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    return _parse_json(_read_text(path), str(path)) if path.is_file() else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not text: {error}. Save the tokenizer again.") from error


def _parse_json(text: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TokenizerError(f"{name} is not valid JSON: {error}. Save the tokenizer again.") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{name} holds a {type(content).__name__}; it must hold a JSON object.")
    return content


def _read_templates(directory: Path) -> ChatTemplate | None:
    """chat_template.jinja, and the named templates in their folder."""
    sources = {"default": directory / TEMPLATE}
    sources |= {path.stem: path for path in sorted((directory / NAMED_TEMPLATES).glob("*.jinja"))}
    templates = {name: path.read_text(encoding="utf-8") for name, path in sources.items() if path.is_file()}
    return templates["default"] if list(templates) == ["default"] else templates or None


def _from_config(template: Any) -> ChatTemplate | None:
    """The template of an older tokenizer_config.json, where several are a list of {"name": …, "template": …}."""
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template
