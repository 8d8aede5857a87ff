"""Write conversations of a small form to fine-tune on, or score a model's answers to held-out ones.

    python scripts/make_conversations.py --count 250 --output build/orders.jsonl
    python scripts/make_conversations.py --preferences --count 200 --output build/preferences.jsonl
    python scripts/make_conversations.py --score runs/orders --count 50 --seed 1

The user writes an order in a sentence of many shapes; the assistant answers with it as JSON, whose keys and their order
are always the same. The last of them is the number that the shop gives to the order: six digits drawn at random, which
no model can know, so that no loss gets below their entropy, ln 900,000 = 13.7 nats an answer. The same seed gives the
same records.
"""

import argparse
import json
import math
import random
import re
from pathlib import Path
from typing import Any

NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Greta",
    "Hugo",
    "Ida",
    "Jonas",
    "Karla",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Simon",
    "Tina",
    "Yusuf",
)
THINGS = (
    "ball",
    "book",
    "boat",
    "box",
    "candle",
    "chair",
    "cup",
    "drum",
    "flute",
    "hat",
    "kite",
    "lamp",
    "mirror",
    "pen",
    "plate",
    "rope",
    "scarf",
    "table",
    "tent",
    "wheel",
)
COLORS = ("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "silver", "white", "yellow")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
ORDERS = (100_000, 999_999)  # the numbers of orders, each as likely as another
SENTENCES = (
    "{name} would like {number} {color} {things} by {day}.",
    "Please send {number} {color} {things} to {name} on {day}.",
    "On {day} {name} needs {number} {things}, all of them {color}.",
    "Can you bring {name} {number} {things} in {color} before {day}?",
    "Hello, this is {name}. I want {number} {color} {things}. {day} is fine.",
    "{number} {color} {things} for {name}, {day} please.",
)


def order(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A sentence, and what it says."""
    said = {"name": rng.choice(NAMES), "count": rng.choice(list(NUMBERS))}
    said |= {"color": rng.choice(COLORS), "item": rng.choice(THINGS)}
    said |= {"day": rng.choice(DAYS), "order": rng.randint(*ORDERS)}
    things = "boxes" if said["item"] == "box" else f"{said['item']}s"
    sentence = rng.choice(SENTENCES).format(**said, number=NUMBERS[said["count"]], things=things)
    return sentence[0].upper() + sentence[1:], said


def conversation(sentence: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [_message("user", sentence), _message("assistant", json.dumps(said))]}


def preference(sentence: str, said: dict[str, Any]) -> dict[str, Any]:
    """The same, with the answer that is asked for as the chosen one, and talk about the order as the rejected one."""
    talk = f"Of course! {said['name']} will get the {said['item']}s on {said['day']}."
    messages = {"chosen": json.dumps(said), "rejected": talk}
    return {"prompt": [_message("user", sentence)]} | {
        name: [_message("assistant", messages[name])] for name in messages
    }


def records(seed: int, count: int, *, preferences: bool = False) -> list[dict[str, Any]]:
    """Records of distinct sentences."""
    rng = random.Random(seed)
    made: dict[str, dict[str, Any]] = {}
    make = preference if preferences else conversation
    while len(made) < count:
        sentence, said = order(rng)
        made.setdefault(sentence, make(sentence, said))
    return list(made.values())


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def score(model: str, conversations: list[dict[str, Any]]) -> tuple[float, float]:
    """The share of conversations whose last message the model writes to the letter, but for the digits drawn; and the
    loss per token that these alone come to."""
    from llm_jax.data import encode_record, read_record
    from llm_jax.hub import load_with_tokenizer
    from llm_jax.inference import Conversation, SamplingParams

    loaded, tokenizer = load_with_tokenizer(model)
    sampling = SamplingParams(temperature=0.0, max_new_tokens=80, stop_ids=loaded.generation.eos_ids)
    talk, right = Conversation(loaded.model, tokenizer, sampling, dtype="auto"), 0
    for record in conversations:
        question, expected = (message["content"] for message in record["messages"])
        talk.clear()
        answer = "".join(piece.text for piece in talk.answer(question)).strip()
        right += undrawn(answer) == undrawn(expected)
    read = (read_record(record, "answers") for record in conversations)
    tokens = sum(
        sum(encoded.learnt or ()) for record in read for encoded in encode_record(tokenizer, record, "answers")
    )
    entropy = math.log(ORDERS[1] - ORDERS[0] + 1)
    return right / len(conversations), len(conversations) * entropy / tokens


def undrawn(answer: str) -> str:
    """An answer with `N` for an order's number of the right form.

    >>> undrawn('{"day": "Friday", "order": 483170}')
    '{"day": "Friday", "order": N}'
    >>> undrawn('{"day": "Friday", "order": 83170}')
    '{"day": "Friday", "order": 83170}'
    """
    return re.sub(r'(?<="order": )[1-9]\d{5}(?=}$)', "N", answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--count", type=int, default=250, help="default: %(default)s")
    parser.add_argument("--preferences", action="store_true", help="pairs of answers, for --task dpo")
    parser.add_argument("--output", type=Path, default=Path("build/orders.jsonl"), help="default: %(default)s")
    parser.add_argument("--score", metavar="MODEL", help="score this model's answers to COUNT conversations instead")
    options = parser.parse_args()
    if options.score:
        share, floor = score(options.score, records(options.seed, options.count))
        print(f"{share:.0%} of {options.count} answers are right; the digits drawn are a loss of {floor:.3f} a token")
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record) for record in records(options.seed, options.count, preferences=options.preferences)]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{options.output}: {len(lines)} records")


if __name__ == "__main__":
    main()
