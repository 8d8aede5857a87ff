"""The tokenizer of a GGUF file: llama.cpp's lists of tokens and merges, and tokenizer.json itself beside them."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.checkpoint.formats.gguf.pre_tokenizers import GPT2, PRE_TOKENIZERS, for_patterns
from llm_jax.checkpoint.formats.gguf.tokenizer_lists import (
    BYTE,
    CONTROL,
    NORMAL,
    PREFIX,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    end_ids,
    read_lists,
    role_ids,
)
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.errors import CheckpointError
from llm_jax.tokenizers import ChatTemplate, Tokenizer, TokenizerFiles, load_tokenizer

TOKENIZER_JSON = "tokenizer.huggingface.json"
TEMPLATE = "tokenizer.chat_template"
NAMED_TEMPLATES = "tokenizer.chat_templates"
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
ENDS = ("eos", "eot", "eom")  # llama.cpp's end of text, of turn, of message: a text stops at each
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def tokenizer_metadata(tokenizer: Tokenizer | None, generation: GenerationDefaults, vocab_size: int) -> dict[str, Any]:
    """The metadata of a tokenizer; without one, llama.cpp runs on ids only.

    Args:
        vocab_size: the model's; ids beyond the tokenizer's become unused tokens.

    Raises:
        CheckpointError: llama.cpp does not have this splitting pattern.
    """
    ends = zip(ENDS, generation.eos_ids, strict=False)
    unknown = tokenizer.special_tokens.get("unk_token") if tokenizer is not None else None
    ids = {
        "bos": generation.bos_id,
        "padding": generation.pad_id,
        "unknown": tokenizer.encode(unknown)[0] if tokenizer is not None and unknown is not None else None,
        **dict(ends),
    }
    entries: dict[str, Any] = {f"{PREFIX}{role}_token_id": index for role, index in ids.items()}
    if tokenizer is None:
        return entries | {PREFIX + "model": "none"}
    files = _files(tokenizer)
    content = json.loads(files.tokenizer)
    plain, whole = tokenizer.encode("a"), tokenizer.encode_with_special_tokens("a")
    entries |= _templates(tokenizer.chat_template) | {
        TOKENIZER_JSON: json.dumps(content, ensure_ascii=False),
        PREFIX + "add_bos_token": whole != plain and whole[:1] == [tokenizer.bos_token_id],
        PREFIX + "add_eos_token": whole != plain and whole[-1:] == [tokenizer.eos_token_id],
    }
    if content["model"]["type"] != "BPE":
        # Word-level, as a CharacterTokenizer is: llama.cpp has no such tokenizer.
        return entries | {PREFIX + "model": "none"}
    return entries | _bpe(content, vocab_size)


def _check_entries(metadata: dict[str, Any]) -> None:
    """Raises CheckpointError about an entry of the tokenizer that is of another type than llama.cpp writes."""
    for name, value in metadata.items():
        entry = name.removeprefix(PREFIX)
        if not name.startswith("tokenizer."):
            continue
        if entry in ("tokens", "merges") or name == NAMED_TEMPLATES:
            ok, allowed = isinstance(value, list), "a list of strings"
        elif entry in ("scores", "token_type"):
            ok, allowed = isinstance(value, np.ndarray | list), "a list of numbers"
        elif entry in ("model", "pre") or name == TOKENIZER_JSON or name.startswith(TEMPLATE):
            ok, allowed = isinstance(value, str), "a string"
        elif entry.startswith("add_"):
            ok, allowed = isinstance(value, bool), "true or false"
        elif entry.endswith("_token_id"):
            ok, allowed = isinstance(value, int) and not isinstance(value, bool) and value >= 0, "a token id"
        else:
            continue
        if not ok:
            raise CheckpointError(f"The GGUF file has {name} = {value!r:.60}; it must be {allowed}.")


def read_tokenizer(path: Path, metadata: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer of a GGUF file: from its tokenizer.json, or from llama.cpp's lists."""
    _check_entries(metadata)
    if TOKENIZER_JSON in metadata:
        content = metadata[TOKENIZER_JSON]
    elif PREFIX + "tokens" in metadata:
        content = read_lists(path, metadata).to_str()
    else:
        return None
    ids = role_ids(metadata)
    tokens = metadata.get(PREFIX + "tokens", [])
    named = {role: ids[name] for role, name in ROLES.items() if name in ids}
    config = {role: tokens[index] for role, index in named.items() if index < len(tokens)}
    with tempfile.TemporaryDirectory() as directory:
        TokenizerFiles(content, config, _read_templates(metadata)).write(directory)
        return load_tokenizer(directory)


def read_generation(metadata: dict[str, Any]) -> GenerationDefaults:
    """The ids that begin, end and pad a text. A file with tokenizer.json names all; llama.cpp finds more in lists."""
    ids = role_ids(metadata)
    named = tuple(ids[role] for role in ENDS if role in ids)
    ends = named if TOKENIZER_JSON in metadata else end_ids(metadata)
    return GenerationDefaults(eos_ids=ends, bos_id=ids.get("bos"), pad_id=ids.get("padding"))


def _templates(template: ChatTemplate | None) -> dict[str, Any]:
    """The metadata of a chat template: the default one, and the named ones with a list of their names."""
    if not isinstance(template, dict):
        return {TEMPLATE: template}
    named = {name: source for name, source in template.items() if name != "default"}
    sources = {f"{TEMPLATE}.{name}": source for name, source in named.items()}
    return {TEMPLATE: template.get("default"), NAMED_TEMPLATES: list(named) or None} | sources


def _read_templates(metadata: dict[str, Any]) -> ChatTemplate | None:
    sources = {"default": metadata.get(TEMPLATE)}
    sources |= {name: metadata.get(f"{TEMPLATE}.{name}") for name in metadata.get(NAMED_TEMPLATES, [])}
    templates = {name: source for name, source in sources.items() if source is not None}
    return templates["default"] if list(templates) == ["default"] else templates or None


def _files(tokenizer: Tokenizer) -> TokenizerFiles:
    with tempfile.TemporaryDirectory() as directory:
        tokenizer.save_pretrained(directory)
        return TokenizerFiles.read(directory)


def _bpe(content: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Tokens by id with their types, and the merges: a list for byte-level BPE, scores for SentencePiece."""
    model = content["model"]
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    types = [UNUSED] * vocab_size
    kinds = {id_: (token, BYTE if BYTE_TOKEN.fullmatch(token) else NORMAL) for token, id_ in model["vocab"].items()}
    for added in content.get("added_tokens", []):
        kinds[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    for id_, kind in kinds.items():
        if id_ < vocab_size:  # llama.cpp has no tokens beyond the embedding's rows
            tokens[id_], types[id_] = kind
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
        PREFIX + "scores": [-float(rank.get(token, len(pairs))) for token in tokens],
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
    patterns = _patterns(_steps(content, "pre_tokenizer"))
    ignore_merges = content["model"].get("ignore_merges", False)
    pre = None if patterns is None else for_patterns(patterns, ignore_merges=ignore_merges)
    if pre is None:
        raise CheckpointError(
            f"The tokenizer splits words by {patterns or content.get('pre_tokenizer')}, for which "
            f"llama.cpp has no name; it has {', '.join(one.names[0] for one in PRE_TOKENIZERS)}. Remove tokenizer.json "
            "to write the weights alone."
        )
    return pre.names[0]


def _patterns(steps: list[dict[str, Any]]) -> list[str] | None:
    """The regular expressions by which the steps split a text in turn; None where one of them does something else."""
    patterns = []
    for step in steps:
        match step:
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                patterns.append(pattern)
            case {"type": "Digits", "individual_digits": individual}:
                patterns.append(r"\p{N}" if individual else r"\p{N}+")
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": splits}:
                patterns += [GPT2] if splits else []
            case {"type": "ByteLevel", "add_prefix_space": False}:
                patterns.append(GPT2)
            case _:
                return None
    return patterns
