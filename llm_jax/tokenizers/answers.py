"""Where the assistant speaks in a rendered conversation, which is what a model learns to write."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.errors import RequestError
from llm_jax.tokenizers.base import Tokenizer
from llm_jax.tokenizers.chat import GENERATION_MARKS, chat_template_source, render_chat

Span = tuple[int, int]  # characters [begin, end) of a text
Rendered = tuple[str, list[Span]]  # a conversation, and the parts of it that the assistant writes


def find_answers(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    given: int = 0,
) -> list[Rendered]:
    """The text of a conversation, and which parts of it the assistant writes.

    They are what the chat template marks by {% generation %}. Where it marks nothing, an answer is the difference
    between the conversation that ends in it and the prompt that asks for it, provided that the one begins with the
    other. Where the template writes an answer in another way once more messages follow, as those do that drop earlier
    thoughts, there are several texts: each answer is in one that has it as the model wrote it, behind what the model
    saw then.

    >>> from llm_jax.tokenizers import CharacterTokenizer
    >>> messages = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    >>> find_answers(CharacterTokenizer(["…"]), messages)
    [('User: 1 + 1?\\nAssistant: 2\\n', [(23, 26)])]

    Args:
        given: how many of the messages are the prompt: without marks, no answers are looked for in them.

    Raises:
        RequestError: the template refuses these messages, or the answers cannot be told from the rest.
    """
    if re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", chat_template_source(tokenizer, tools)):
        return [_by_marks(tokenizer, messages, tools)]
    return _by_difference(tokenizer, messages, tools, given)


def encode_answers(tokenizer: Tokenizer, text: str, answers: Sequence[Span]) -> tuple[list[int], list[bool]]:
    """The ids of a text, and for each whether a part of it belongs to an answer.

    >>> from llm_jax.tokenizers import CharacterTokenizer
    >>> encode_answers(CharacterTokenizer(["abcd"]), "abcd", [(1, 3)])
    ([0, 1, 2, 3], [False, True, True, False])
    """
    inside = bytearray(len(text))  # 1 for each character of an answer
    for begin, end in answers:
        inside[begin:end] = b"\1" * (end - begin)
    ids, ends = tokenizer.encode_with_ends(text)
    belongs, begin, end = [], 0, 0
    for stop in ends:
        if stop > end:  # else one of several tokens of one character
            begin, end = end, stop
        belongs.append(1 in inside[begin:end])
    return ids, belongs


def _by_marks(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> Rendered:
    # Marks that no message can contain, and that no template changes.
    begins, ends = marks = [f"\ue000{secrets.token_hex(8)}{side}\ue000" for side in "<>"]
    variables = dict(zip(GENERATION_MARKS, marks, strict=True))
    marked = render_chat(tokenizer, messages, tools=tools, add_generation_prompt=False, **variables)
    text, answers = "", []
    for part in re.split(f"(?={begins})", marked):
        inside, mark, outside = part.removeprefix(begins).partition(ends)
        if mark:
            answers.append((len(text), len(text) + len(inside)))
        text += inside + outside
    if not answers and any(message["role"] == "assistant" for message in messages):
        raise RequestError("The chat template marks none of the assistant's words in these messages.", "messages")
    return text, answers


def _by_difference(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    given: int,
) -> list[Rendered]:
    texts: list[Rendered] = [(render_chat(tokenizer, messages, tools=tools, add_generation_prompt=False), [])]
    for index in range(len(messages) - 1, given - 1, -1):
        if messages[index]["role"] != "assistant":
            continue
        prompt = render_chat(tokenizer, messages[:index], tools=tools)
        answered = render_chat(tokenizer, messages[: index + 1], tools=tools, add_generation_prompt=False)
        if not answered.startswith(prompt):
            raise RequestError(
                f"The chat template writes messages[{index}] in another way than it asks for it, so that the "
                "assistant's words cannot be told from the rest. Mark them by {% generation %} … {% endgeneration %} "
                "around what the assistant writes, in a copy of the template that data.chat_template names.",
                "messages",
            )
        answers = next((answers for text, answers in texts if text.startswith(answered)), None)
        if answers is None:
            answers = []
            texts.insert(0, (answered, answers))
        answers.insert(0, (len(prompt), len(answered)))
    return [(text, answers) for text, answers in texts if answers] or texts
