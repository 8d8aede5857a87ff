"""Write the bundled corpus: simple stories and short talks, invented from a seed.

    python scripts/make_corpus.py --seed 7 --output data/dummy_corpus.txt

Documents are separated by a blank line and come in random order, so that any part of the file is like any other.
The templates of the sentences are in scripts/corpus/text; the same seed and size give the same file.
"""

import argparse
import random
from pathlib import Path

from corpus.dialogues import dialogue
from corpus.stories import introduction, quick_fox, tell

KINDS = {
    "story": lambda rng: "\n".join(tell(rng).paragraphs),
    "short story": lambda rng: tell(rng, short=True).line,
    "fox and dog": lambda rng: quick_fox(rng).line,
    "introduction": introduction,
    "dialogue": dialogue,
}
PERCENT = {"story": 34, "short story": 9, "fox and dog": 3, "introduction": 5, "dialogue": 49}


def make_corpus(seed: int, size: int) -> str:
    """Distinct documents, at least `size` characters in all."""
    rng = random.Random(seed)
    documents: dict[str, None] = {}  # a set in the order of insertion
    length = 0
    while length < size:
        (kind,) = rng.choices(list(PERCENT), weights=list(PERCENT.values()))
        document = KINDS[kind](rng)
        length += 0 if document in documents else len(document) + 2
        documents[document] = None
    return "\n\n".join(documents) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--size", type=int, default=640_000, help="characters; default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("data/dummy_corpus.txt"), help="default: %(default)s")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(make_corpus(options.seed, options.size), encoding="utf-8", newline="\n")
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
