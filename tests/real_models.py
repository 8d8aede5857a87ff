"""Real tokenizers and models, which `make real-models` fetches, and texts to compare tokenizers with."""

from pathlib import Path

import numpy as np
import pytest

from scripts.fetch_real_models import FOLDER, GGUF_FILES, TOKENIZERS

SMOLLM2, GEMMA3 = GGUF_FILES
_SPECIAL = (
    "<s> </s> <unk> <pad> <bos> <eos> <start_of_turn> <end_of_turn> "
    "<|begin_of_text|> <|eot_id|> <|im_start|> <|im_end|> <|endoftext|> "
    "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <|start|> <|message|> "
    "<|return|> <think> <|User|> [INST]"
)
_WORDS = (
    "the The HELLO wor·ld don't we'll I'M 123 4567890 3.14 x1y2 foo_bar "
    "fooBarBaz naïve straße Ελλάδα привет مرحبا שלום 日本語 汉字漢字 ひらがな カタカナ "
    "한국어 ไทย မြန်မာ ქართული हिन्दी 🙂 👩‍👩‍👧 🇫🇷 🏳️‍🌈 ٣٤٥ ۱۲ ２３ ½ Ⅷ -> != == "
    "++ ... — “q” ' \" ` $ € def return(self): {[()]} a[i]+=1; #!/bin/sh "
    "<div class='x'> \\n %s /* c */ // ▁ ▁▁ <0x0A> http://a.b/c?d=e&f=1"
)
SPECIAL, WORDS = _SPECIAL.split(" "), _WORDS.split(" ")
SPACES = (
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n\n\n",
    "\t",
    "\r\n",
    " \n",
    "\n ",
    "    ",
    " " * 13,
    " " * 40,
    "\t\t",
    "",
)


def texts(count: int = 200, seed: int = 0) -> list[str]:
    """Words of many scripts, digits, code and special tokens, with runs of every kind of space between them."""
    rng = np.random.default_rng(seed)

    def text() -> str:
        pieces = []
        for _ in range(rng.integers(1, 14)):
            pieces += [str(rng.choice(SPACES)), str(rng.choice(SPECIAL if rng.random() < 0.12 else WORDS))]
        return "".join(pieces[rng.integers(0, 2) :]) + str(rng.choice(SPACES))

    return ["", " ", "Hello", " Hello world", "a <|endoftext|> b", " " * 50 + "x", *(text() for _ in range(count - 6))]


def real(name: str) -> Path:
    """The path of a real tokenizer or model; skips the test where it has not been fetched."""
    assert name in (*TOKENIZERS, *GGUF_FILES)
    if not (FOLDER / name).exists():
        pytest.skip(f"{name} is not here: run `make real-models`")
    return FOLDER / name
