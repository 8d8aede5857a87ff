"""The tokenizer of a GGUF file: llama.cpp's lists of tokens and merges, and tokenizer.json itself beside them."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.errors import CheckpointError
from llm_jax.tokenizers import Tokenizer, TokenizerFiles, load_tokenizer

TOKENIZER_JSON = "tokenizer.huggingface.json"
TEMPLATE = "tokenizer.chat_template"
PREFIX = "tokenizer.ggml."
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types

# Pattern by which a byte-level tokenizer splits a text before merging -> its name in llama.cpp.
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
PRE_TOKENIZERS = {
    ENGLISH + WORDS + r"\p{N}{1,3}" + REST: "llama-bpe",
    ENGLISH + WORDS + r"\p{N}" + REST: "qwen2",
}


def tokenizer_metadata(tokenizer: Tokenizer | None, generation: GenerationDefaults, vocab_size: int) -> dict[str, Any]:
    """The metadata of a tokenizer; without one, llama.cpp runs on ids only.

    Args:
        vocab_size: the model's; ids beyond the tokenizer's become unused tokens.

    Raises:
        CheckpointError: llama.cpp does not have this splitting pattern.
    """
    ids = {
        PREFIX + "bos_token_id": generation.bos_id,
        # llama.cpp stops at two ids: end of text, and end of turn.
        PREFIX + "eos_token_id": generation.eos_ids[0] if generation.eos_ids else None,
        PREFIX + "eot_token_id": generation.eos_ids[1] if len(generation.eos_ids) > 1 else None,
        PREFIX + "padding_token_id": generation.pad_id,
    }
    if tokenizer is None:
        return ids | {PREFIX + "model": "none"}
    files = _files(tokenizer)
    content = json.loads(files.tokenizer)
    template = tokenizer.chat_template
    entries = ids | {
        TOKENIZER_JSON: json.dumps(content, ensure_ascii=False),
        TEMPLATE: template.get("default") if isinstance(template, dict) else template,
        PREFIX + "add_bos_token": files.backend().encode("").ids[:1] == [tokenizer.bos_token_id],
    }
    if content["model"]["type"] != "BPE":
        # Word-level, as a CharacterTokenizer is: llama.cpp has no such tokenizer.
        return entries | {PREFIX + "model": "none"}
    return entries | _bpe(content, vocab_size)


def read_tokenizer(path: Path, metadata: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a GGUF file: from its tokenizer.json, or by transformers from llama.cpp's lists."""
    if TOKENIZER_JSON in metadata:
        content = metadata[TOKENIZER_JSON]
    elif PREFIX + "tokens" in metadata:
        content = _without_padding(_by_transformers(path), metadata.get(PREFIX + "token_type", []))
    else:
        return None
    tokens = {id_: token for token, id_ in Backend.from_str(content).get_vocab(with_added_tokens=True).items()}
    roles = {role: tokens.get(metadata.get(f"{PREFIX}{name}_token_id", -1)) for role, name in ROLES.items()}
    config = {role: token for role, token in roles.items() if token is not None}
    with tempfile.TemporaryDirectory() as directory:
        TokenizerFiles(content, config, metadata.get(TEMPLATE)).write(directory)
        return load_tokenizer(directory)


def _without_padding(content: str, types: list[int]) -> str:
    """tokenizer.json without the unused tokens that fill the vocabulary up to the model's."""
    tokenizer = json.loads(content)
    unused = {id_ for id_, token_type in enumerate(types) if token_type == UNUSED}
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, dict):
        tokenizer["model"]["vocab"] = {token: id_ for token, id_ in vocabulary.items() if id_ not in unused}
    tokenizer["added_tokens"] = [added for added in tokenizer["added_tokens"] if added["id"] not in unused]
    return json.dumps(tokenizer, ensure_ascii=False)


def _files(tokenizer: Tokenizer) -> TokenizerFiles:
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return TokenizerFiles.read(directory)


def _bpe(content: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Tokens by id with their types, and the merges: a list for byte-level BPE, scores for SentencePiece."""
    model = content["model"]
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [UNUSED] * vocab_size
    for token, id_ in model["vocab"].items():
        tokens[id_], types[id_] = token, BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else NORMAL
    for added in content.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    if not model.get("byte_fallback"):
        merges = [" ".join(pair) for pair in pairs]
        lists = {PREFIX + "model": "gpt2", PREFIX + "pre": _pre_tokenizer(content), PREFIX + "merges": merges}
        return lists | {PREFIX + "tokens": tokens, PREFIX + "token_type": types}
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    # llama.cpp merges the pair with the highest score first: the earliest merge gets the highest.
    rank = {"".join(pair): index for index, pair in reversed(list(enumerate(pairs)))}
    return {
        PREFIX + "model": "llama",
        PREFIX + "pre": "default",
        PREFIX + "tokens": tokens,
        PREFIX + "scores": [-float(rank.get(token, 0)) for token in tokens],
        PREFIX + "token_type": types,
        PREFIX + "add_space_prefix": _begins_with_space(content),
    }


def _begins_with_space(content: dict[str, Any]) -> bool:
    """Whether a space is prepended to a text."""
    steps = _steps(content, "normalizer") + _steps(content, "pre_tokenizer")
    return any(
        step["type"] == "Prepend" or (step["type"] == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in steps
    )


def _steps(content: dict[str, Any], part: str) -> list[dict[str, Any]]:
    step = content.get(part)
    return [] if step is None else step.get("normalizers") or step.get("pretokenizers") or [step]


def _pre_tokenizer(content: dict[str, Any]) -> str:
    steps = _steps(content, "pre_tokenizer")
    patterns = [one["pattern"]["Regex"] for one in steps if "Regex" in one.get("pattern", {})]
    if not patterns and any(one.get("type") == "ByteLevel" and one.get("use_regex", True) for one in steps):
        return "gpt-2"
    if len(patterns) == 1 and patterns[0] in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[patterns[0]]
    raise CheckpointError(
        f"The tokenizer splits words by {patterns or steps}, for which no name in llama.cpp is known here; "
        f"{', '.join(['gpt-2', *PRE_TOKENIZERS.values()])} are. Leave tokenizer.json out to write the weights alone."
    )


def _by_transformers(path: Path) -> str:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{path} has its tokenizer in llama.cpp's lists alone; the transformers package reads them: install the "
            "extra 'hf'."
        ) from error
    try:
        return AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, trust_remote_code=False
        ).backend_tokenizer.to_str()
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"The tokenizer in {path} is of a type that cannot be read: {error}.") from error
