"""How llama.cpp splits a text before it merges bytes: its names, and what each of them splits by.

A GGUF file holds a name only. Where llama.cpp splits by something else than the tokenizer.json that its converter gives
that name to, both are here: the first is what its ids follow from, the second is what a file is written for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# The same without the letters of other scripts whose other case is one of these: llama.cpp knows the ASCII ones only.
ASCII_CONTRACTION = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKED_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
LINES = r"\s*[\r\n]+"
SPACES = r"\s+(?!\S)|\s+"
GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{SPACES}"
DIGIT = r"\p{N}"
THREE_DIGITS = r"\p{N}{1,3}"
EAST_ASIAN = r"[一-龥぀-ゟ゠-ヿ]+"
PUNCTUATED_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    rf"{LINES}|{SPACES}"
)


def _like_llama3(number: str) -> str:
    return "|".join([CONTRACTION, LETTERS, number, SIGNS, LINES, SPACES])


def _by_case(upper: str, lower: str, number: str, end: str = "") -> str:
    """Words that end where a capital letter follows a small one."""
    word = r"[^\r\n\p{L}\p{N}]?"
    signs = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
    return "|".join([f"{word}{upper}*{lower}+{end}", f"{word}{upper}+{lower}*{end}", number, signs, LINES, SPACES])


UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ASCII_UPPER, ASCII_LOWER = (
    r"[\p{L}&&[^a-z]]",
    r"[\p{L}&&[^A-Z]]",
)  # llama.cpp: letters that are no small ASCII letter, …


@dataclass(frozen=True)
class PreTokenizer:
    """One way of splitting.

    Attributes:
        names: of llama.cpp, the first of which is written.
        patterns: regular expressions; a text is split by each in turn, into what matches and what lies between.
        written_for: those of tokenizer.json, where they differ.
        ignore_merges: a part that is a token is that token, whether or not merges lead to it.
        add_bos: a text begins with BOS unless the file says otherwise.
    """

    names: tuple[str, ...]
    patterns: tuple[str, ...]
    written_for: tuple[str, ...] = ()
    ignore_merges: bool = False
    add_bos: bool = False


PRE_TOKENIZERS = (
    PreTokenizer(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"),
        (_like_llama3(THREE_DIGITS),), ignore_merges=True, add_bos=True,
    ),
    PreTokenizer(("glm4", "glm5"), (_like_llama3(THREE_DIGITS),), ignore_merges=True),
    PreTokenizer(("smaug-bpe", "dbrx", "chatglm-bpe"), (_like_llama3(THREE_DIGITS),)),
    PreTokenizer(
        ("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"),
        (_like_llama3(DIGIT),),
    ),
    PreTokenizer(
        ("qwen35",),
        ("|".join([CONTRACTION, MARKED_LETTERS, DIGIT, r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", LINES, SPACES]),),
    ),
    PreTokenizer(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat",
         "a.x-4.0", "mellum", "modern-bert", "exaone4", "trillion", "granite-docling"),
        (GPT2,),
    ),
    PreTokenizer(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"), (DIGIT, GPT2)
    ),
    PreTokenizer(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), (THREE_DIGITS, EAST_ASIAN, PUNCTUATED_WORDS)),
    PreTokenizer(
        ("deepseek-coder",), (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", DIGIT)
    ),
    PreTokenizer(
        ("tekken",), (_by_case(ASCII_UPPER, ASCII_LOWER, DIGIT),), (_by_case(UPPER, LOWER, DIGIT),),
        ignore_merges=True, add_bos=True,
    ),
    PreTokenizer(
        ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
        (_by_case(ASCII_UPPER, ASCII_LOWER, THREE_DIGITS, CONTRACTION + "?"),),
        (_by_case(UPPER, LOWER, THREE_DIGITS, CONTRACTION + "?"),),
    ),
    PreTokenizer(
        ("falcon",), (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"),
    ),
    PreTokenizer(("default", ""), (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    PreTokenizer(("poro-chat", "bloom", "gpt3-finnish"), (r" ?[^(\s|.,!?…。，、।۔،)]+",)),
    PreTokenizer(("viking",), (r" ?[^(\s|.,!?…。，、।۔،)]+", DIGIT)),
    PreTokenizer(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        ("|".join([r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])", LETTERS, DIGIT, SIGNS, r"\s*[\r\n]", SPACES]),),
        ("|".join([r"'(?i:[sdmt]|ll|ve|re)", r"[^\r\n\p{L}\p{N}]?+\p{L}+", DIGIT, r" ?[^\s\p{L}\p{N}]++[\r\n]*",
                   r"\s*[\r\n]", SPACES]),),
    ),
    PreTokenizer(
        ("seed-coder",),
        ("|".join([CONTRACTION, LETTERS, r"\p{N}{1}", r" ?[^\s\p{L}\p{N}\r\n]+", LINES, SPACES]),),
    ),
    PreTokenizer(("ufakzeka",), ("|".join([LETTERS, DIGIT, SIGNS, LINES, SPACES]),)),
    PreTokenizer(("laguna",), (r"[^\n]+|[\n]+", _like_llama3(DIGIT))),
    PreTokenizer(
        ("exaone-moe",),
        ("|".join([CONTRACTION, r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+", DIGIT,
                   r" ?[^\s\p{L}\p{N}]+[\r\n/]?", r"\s*[\r\n]", SPACES]),),
    ),
    PreTokenizer(
        ("minicpm5",),
        (THREE_DIGITS, "|".join([CONTRACTION, LETTERS, r"\p{N}+", SIGNS, LINES, SPACES])), ignore_merges=True,
    ),
)  # fmt: skip


def named(name: str) -> PreTokenizer | None:
    """The one of that name, None where it is not known here."""
    return next((one for one in PRE_TOKENIZERS if name in one.names), None)


def for_patterns(patterns: Sequence[str], *, ignore_merges: bool) -> PreTokenizer | None:
    """The one that a tokenizer.json with these patterns is written as, preferably with the same ignore_merges."""
    wanted = [_plain(pattern) for pattern in patterns]
    fitting = [one for one in PRE_TOKENIZERS if [_plain(p) for p in one.written_for or one.patterns] == wanted]
    return min(fitting, key=lambda one: one.ignore_merges != ignore_merges, default=None)


def as_llama_cpp(pattern: str) -> str:
    """The pattern with llama.cpp's contractions."""
    return pattern.replace(CONTRACTION, ASCII_CONTRACTION)


def _plain(pattern: str) -> str:
    """Spellings of the same pattern become one: characters written out or escaped, and spaces at the end, as a last
    alternative or left over between matches."""
    written = as_llama_cpp(pattern).replace("\r", r"\r").replace("\n", r"\n")
    return re.sub(r"\|\\s\+$", "", written)
