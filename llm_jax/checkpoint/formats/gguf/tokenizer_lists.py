"""The tokenizer that llama.cpp's lists describe: tokens with their types, and merges or scores."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from llm_jax.checkpoint.formats.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer, as_llama_cpp, named
from llm_jax.errors import CheckpointError

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types
SPACE = "▁"  # in the tokens of SentencePiece

# llama.cpp takes these for control tokens, whatever their type, and ends a text at the first ones.
ENDS = frozenset(
    {"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"}
    | {
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<eos>",
        "<turn|>",
    }
    | {"<end_of_utterance>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["}
    | {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}
    | {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"}
)
FILLING = frozenset(
    {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"}
    | {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>"}
    | {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>"}
    | {"<|prefix|>", "<|suffix|>", "<|middle|>"}
)


def read_lists(path: Path, metadata: Mapping[str, Any]) -> Backend:
    """The tokenizer of a GGUF file, whose ids are llama.cpp's.

    Raises:
        CheckpointError: a list is missing or contradicts another, or the tokenizer is of a kind that is not known.
    """
    kind = metadata.get(PREFIX + "model")
    if kind not in ("gpt2", "llama"):
        raise CheckpointError(
            f"{path} has a tokenizer of the kind {kind!r} ({PREFIX}model), which cannot be read; gpt2 (byte-level BPE) "
            "and llama (SentencePiece) can."
        )
    tokens, types = _tokens(path, metadata)
    pre = _pre_tokenizer(path, metadata) if kind == "gpt2" else None
    # Tokens that fill the vocabulary up to the model's are no part of the tokenizer.
    vocab = {token: i for i, token in enumerate(tokens) if not (types[i] == UNUSED and token == f"[PAD{i}]")}
    if pre is not None:
        backend = _byte_level(path, vocab, metadata, pre)
    else:
        backend = _sentencepiece(path, vocab, types, metadata)
    added = [
        _added(token, types[i], metadata) for token, i in vocab.items() if types[i] in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    backend.add_tokens(added)
    backend.post_processor = _ends(path, tokens, metadata, add_bos=pre is None or pre.add_bos)
    return backend


def role_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """bos, eos, unknown, padding, … -> id. SentencePiece's own ids hold where the file has none."""
    usual = {"bos": 1, "eos": 2, "unknown": 0} if metadata.get(PREFIX + "model") == "llama" else {}
    named_ids = {
        role: metadata.get(f"{PREFIX}{role}_token_id") for role in ("bos", "eos", "eot", "eom", "unknown", "padding")
    }
    return usual | {role: index for role, index in named_ids.items() if index is not None}


def end_ids(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids at which llama.cpp ends a text: those that the file names, and tokens that look like an end."""
    ids = role_ids(metadata)
    tokens = metadata.get(PREFIX + "tokens", [])
    ends = [index for index, token in enumerate(tokens) if token in ENDS]
    if {"<|return|>", "<|call|>"} <= {tokens[index] for index in ends}:
        ends = [index for index in ends if tokens[index] != "<|end|>"]  # gpt-oss: it ends a message, not the answer
    return tuple(dict.fromkeys([*(ids[role] for role in ("eos", "eot", "eom") if role in ids), *ends]))


def _tokens(path: Path, metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(metadata[PREFIX + "tokens"])]
    if len(set(tokens)) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if token in tokens[:i])
        raise CheckpointError(f"{path} lists the token {twice!r} twice in {PREFIX}tokens.")
    types = list(metadata.get(PREFIX + "token_type", [NORMAL] * len(tokens)))
    if len(types) < len(tokens):
        raise CheckpointError(f"{path} has {len(tokens)} tokens and {len(types)} types ({PREFIX}token_type).")
    return tokens, [CONTROL if token in ENDS | FILLING else type_ for token, type_ in zip(tokens, types, strict=False)]


def _pre_tokenizer(path: Path, metadata: Mapping[str, Any]) -> PreTokenizer:
    name = metadata.get(PREFIX + "pre", "")
    pre = named(name)
    if pre is None:
        known = ", ".join(name for one in PRE_TOKENIZERS for name in one.names if name)
        raise CheckpointError(f"{path} splits text by {name!r} ({PREFIX}pre), which is not known here; {known} are.")
    return pre


def _byte_level(path: Path, vocab: dict[str, int], metadata: Mapping[str, Any], pre: PreTokenizer) -> Backend:
    if PREFIX + "merges" not in metadata:
        raise CheckpointError(f"{path} has no {PREFIX}merges, which a byte-level tokenizer needs.")
    merges = [tuple(merge.split(" ", 1)) for merge in metadata[PREFIX + "merges"]]
    unknown = next((pair for pair in merges if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys()), None)
    if unknown is not None:
        raise CheckpointError(f"{path} merges {' '.join(unknown)!r}, which is not in {PREFIX}tokens.")
    backend = Backend(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(as_llama_cpp(pattern)), "isolated") for pattern in pre.patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(path: Path, vocab: dict[str, int], types: Sequence[int], metadata: Mapping[str, Any]) -> Backend:
    scores = metadata.get(PREFIX + "scores")
    if scores is None or len(scores) < len(types):
        raise CheckpointError(f"{path} has no score for every token ({PREFIX}scores), which SentencePiece needs.")
    unknown = role_ids(metadata).get("unknown")
    unknown_token = next((token for token, i in vocab.items() if i == unknown), None)
    merged = [(token, i) for token, i in vocab.items() if types[i] not in (CONTROL, UNKNOWN) and len(token) > 1]
    merged.sort(key=lambda entry: -scores[entry[1]])
    merges = [pair for token, _ in merged for pair in _pairs(token, vocab)]
    backend = Backend(
        models.BPE(vocab=vocab, merges=merges, unk_token=unknown_token, fuse_unk=True, byte_fallback=True)
    )
    begins_with_space = metadata.get(PREFIX + "add_space_prefix", True)
    spaces = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if begins_with_space else spaces
    strip = [decoders.Strip(" ", 1, 0)] if begins_with_space else []
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _pairs(token: str, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The pairs of tokens that make up a token."""
    for at in range(1, len(token)):
        left, right = token[:at], token[at:]
        if left in vocab and right in vocab:
            yield left, right


def _added(token: str, type_: int, metadata: Mapping[str, Any]) -> AddedToken:
    # llama.cpp knows by its name alone that Phi 3 drops the spaces after a special token.
    is_phi3 = re.search("phi-?3", str(metadata.get("general.name", "")).lower()) is not None
    drops = is_phi3 and token not in ("<unk>", "<s>", "<|endoftext|>")
    return AddedToken(token, special=type_ != USER_DEFINED, normalized=False, rstrip=drops)


def _ends(path: Path, tokens: Sequence[str], metadata: Mapping[str, Any], *, add_bos: bool) -> Any:
    """The post-processor that adds what the flags of the file say: BOS before a text, EOS after it."""
    if metadata.get(PREFIX + "add_sep_token"):
        raise CheckpointError(f"{path} adds separators ({PREFIX}add_sep_token), as models of embeddings do.")
    ids = role_ids(metadata)
    template, special = ["$A"], {}
    for role, added in (("bos", add_bos), ("eos", False)):
        if metadata.get(f"{PREFIX}add_{role}_token", added):
            if role not in ids or not 0 <= ids[role] < len(tokens):
                raise CheckpointError(f"{path} adds a {role.upper()} to texts and has no {PREFIX}{role}_token_id.")
            special[tokens[ids[role]]] = ids[role]
            template.insert(0 if role == "bos" else len(template), tokens[ids[role]])
    return processors.TemplateProcessing(single=template, special_tokens=list(special.items()))
