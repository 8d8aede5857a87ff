"""Records of a dataset, recognised by their fields.

| Fields | |
|---|---|
| `text` | a document |
| `messages` | a conversation, with `tools` beside it |
| `conversations` | the same as ShareGPT has it (`from`, `value`), with `system` and `tools` beside it |
| `prompt`, `completion` | two texts, or two lists of messages |
| `instruction`, `output` | a question, with `input` and `system` beside it, and its answer, as Alpaca has them |
| `chosen`, `rejected` | two answers, with `prompt` or with what they have in common |

Other fields are passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from llm_jax.data.messages import Conversation, FieldError, read_messages, read_sharegpt, read_tools

Form = Literal[
    "text", "answers", "preferences"
]  # what is learnt: every token; what the assistant says; which is better


@dataclass(frozen=True)
class Completion:
    """A text, of which what follows the prompt is learnt."""

    prompt: str
    completion: str


Answered = Conversation | Completion


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt."""

    chosen: Answered
    rejected: Answered


Record = str | Answered | Preference

# For each form the fields that make a record of it, the first that is there first.
SHAPES: dict[Form, tuple[tuple[str, ...], ...]] = {
    "text": (("text",), ("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output")),
    "answers": (("messages",), ("conversations",), ("prompt", "completion"), ("instruction", "output"), ("text",)),
    "preferences": (("chosen", "rejected"),),
}


def read_record(fields: Mapping[str, Any], form: Form) -> Record:
    """What the fields of one record say.

    >>> read_record({"prompt": "1 + 1 =", "completion": " 2", "id": 7}, "answers")
    Completion(prompt='1 + 1 =', completion=' 2')

    Raises:
        FieldError: the fields are of no known shape, or one of them is broken.
    """
    present = {name for name, value in fields.items() if value is not None}
    shape = next((shape for shape in SHAPES[form] if present.issuperset(shape)), None)
    match shape:
        case ("text",):
            return _text(fields, "text")
        case ("messages",):
            return _conversation(fields, read_messages(fields["messages"], "messages"), form)
        case ("conversations",):
            turns = read_sharegpt(fields["conversations"], "conversations")
            if fields.get("system"):
                turns = {"role": "system", "content": _text(fields, "system")}, *turns
            return _conversation(fields, turns, form)
        case ("prompt", "completion"):
            return _answered(fields, "completion")
        case ("instruction", "output"):
            return _instructed(fields)
        case ("chosen", "rejected"):
            return _preference(fields)
    raise FieldError(_unknown(present, form))


def _unknown(present: set[str], form: Form) -> str:
    known = "; ".join(" and ".join(shape) for shape in SHAPES[form])
    if form != "preferences" and present >= {"chosen", "rejected"}:
        return f"chosen and rejected are a preference between two answers, for --task dpo; here a record has {known}."
    return f"the fields are {', '.join(sorted(present)) or 'none'}; a record needs {known}."


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise FieldError(f"{name} is {value!r}; it must be text.")
    return value


def _conversation(fields: Mapping[str, Any], messages: tuple[dict[str, Any], ...], form: Form) -> Conversation:
    if form == "answers" and all(message["role"] != "assistant" for message in messages):
        raise FieldError("messages has none of the assistant, so that there is nothing to learn.")
    return Conversation(messages, read_tools(fields.get("tools"), "tools"))


def _answered(fields: Mapping[str, Any], answer: str) -> Answered:
    """A prompt and an answer to it, both texts or both messages."""
    prompt, value = fields["prompt"], fields[answer]
    if isinstance(value, str):
        return Completion(_text(fields, "prompt"), value)
    said = read_messages(value, answer)
    if isinstance(prompt, str):  # the messages may begin with it
        messages = said if said[0]["role"] == "user" else ({"role": "user", "content": prompt}, *said)
        given = _before_the_answer(messages)
    else:
        asked = read_messages(prompt, "prompt")
        given = len(asked)
        messages = said if said[:given] == asked else (*asked, *said)
    if all(message["role"] != "assistant" for message in messages[given:]):
        raise FieldError(f"{answer} has no message of the assistant.")
    return Conversation(messages, read_tools(fields.get("tools"), "tools"), given)


def _instructed(fields: Mapping[str, Any]) -> Conversation:
    """What is asked, with what it is about below it, and the answer."""
    question = "\n\n".join(_text(fields, name) for name in ("instruction", "input") if fields.get(name))
    said = {"system": _text(fields, "system")} if fields.get("system") else {}
    said |= {"user": question, "assistant": _text(fields, "output")}
    return Conversation(tuple({"role": role, "content": content} for role, content in said.items()))


def _before_the_answer(messages: tuple[dict[str, Any], ...]) -> int:
    """How many messages there are up to the last one of the user."""
    return 1 + max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def _preference(fields: Mapping[str, Any]) -> Preference:
    if fields.get("prompt") is not None:
        return Preference(_answered(fields, "chosen"), _answered(fields, "rejected"))
    chosen, rejected = fields["chosen"], fields["rejected"]
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise FieldError("chosen and rejected must both be text, or both lists of messages.")
    if isinstance(chosen, str):
        prompt = _common_words(chosen, rejected)
        return Preference(*(Completion(prompt, text[len(prompt) :]) for text in (chosen, rejected)))
    first, second = read_messages(chosen, "chosen"), read_messages(rejected, "rejected")
    given = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    if not given:
        raise FieldError(
            "chosen and rejected have no message in common, and there is no prompt; one of them is needed."
        )
    conversation = Conversation(first, read_tools(fields.get("tools"), "tools"), given)
    return Preference(conversation, replace(conversation, messages=second))


def _common_words(first: str, second: str) -> str:
    """What two texts have in common at their beginning, up to the space before the word in which they differ."""
    end = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    while end and not first[end : end + 1].isspace():
        end -= 1
    if not end:
        raise FieldError("chosen and rejected begin with no word in common, and there is no prompt; one is needed.")
    return first[:end]
