"""What tells tokenizers apart."""

import json
from hashlib import blake2b

from llm_jax.tokenizers.base import Tokenizer


def fingerprint(tokenizer: Tokenizer) -> str:
    """The same for tokenizers that give the same ids to the same text and to the same messages.

    >>> from llm_jax.tokenizers import CharacterTokenizer
    >>> fingerprint(CharacterTokenizer(["ab"])) == fingerprint(CharacterTokenizer(["ba"]))
    True
    """
    parts = [tokenizer.to_json(), tokenizer.chat_template, dict(tokenizer.special_tokens)]
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()
