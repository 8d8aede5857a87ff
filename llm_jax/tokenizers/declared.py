"""What tokenizer_config.json declares about special tokens, and tokenizer.json may lack: transformers adds it."""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
ADDED = "added_tokens_decoder"  # entry: id -> token
FURTHER = ("additional_special_tokens", "extra_special_tokens")  # entries: lists of tokens without a role


def roles_of(config: Mapping[str, Any]) -> dict[str, str]:
    """role -> token. A token is a string or {"content": …}."""
    return {role: _content(config[role]) for role in ROLES if config.get(role)}


def add_declared_tokens(backend: Backend, config: Mapping[str, Any]) -> None:
    """Adds the declared tokens that the backend lacks, or has with other properties. Those with a role are special."""
    roles = set(roles_of(config).values())
    present = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    declared = sorted((config.get(ADDED) or {}).items(), key=lambda entry: int(entry[0]))
    tokens = [_added_token(entry, roles) for _, entry in declared]
    tokens = [token for token in tokens if repr(token) not in present]
    known = {token.content for token in [*backend.get_added_tokens_decoder().values(), *tokens]}
    further = [_content(token) for name in FURTHER if isinstance(config.get(name), list) for token in config[name]]
    missing = dict.fromkeys(text for text in [*roles_of(config).values(), *further] if text not in known)
    backend.add_tokens([*tokens, *(AddedToken(text, special=True, normalized=False) for text in missing)])


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _added_token(entry: Mapping[str, Any], roles: set[str]) -> AddedToken:
    """A token of `added_tokens_decoder`."""
    properties = {name: entry[name] for name in ("single_word", "lstrip", "rstrip", "normalized") if name in entry}
    special = entry.get("special", False) or entry["content"] in roles
    return AddedToken(entry["content"], special=special, **properties)
