"""API keys and their digests. A key is random and long, so that SHA-256 hides it without salt or repetition."""

import re
import secrets
from hashlib import sha256

DIGITS = 64


def digest(key: str | bytes) -> str:
    return sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-fA-F]{{{DIGITS}}}", value) is not None


def new_key() -> str:
    return f"sk-{secrets.token_urlsafe(32)}"


def key_entry(name: str, key: str) -> str:
    """An account of this name for the file of keys."""
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'["{quoted}"]\nsha256 = ["{digest(key)}"]\n'
