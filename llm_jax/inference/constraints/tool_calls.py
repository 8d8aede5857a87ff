"""The grammar of an answer that may be, or must be, tool calls, in llguidance's dialect of Lark."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.tokenizers import CallSyntax

# The arguments as templates write JSON, with a space after : and , and nowhere else.
JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}


def calls_grammar(
    syntax: CallSyntax,
    tools: Sequence[tuple[str, Mapping[str, Any]]],
    special: Mapping[str, int],
    *,
    is_required: bool,
    is_parallel: bool,
    text: str | None = None,
) -> str:
    """The grammar of text or calls. Free text before the calls is free up to their trigger.

    Args:
        tools: name and JSON schema of the arguments.
        special: tokens that are no text of other tokens, written form to id.
        text: a rule that a text without calls follows.
    """

    def literal(value: str) -> str:
        """Terms for a text; special tokens in it are named by their ids."""
        parts = re.split("|".join(map(re.escape, special)) or r"(?!)", value)
        tokens = re.findall("|".join(map(re.escape, special)) or r"(?!)", value)
        terms = [json.dumps(parts[0], ensure_ascii=False)] if parts[0] else []
        for token, part in zip(tokens, parts[1:], strict=True):
            terms.append(f"<[{special[token]}]>")
            if part:
                terms.append(json.dumps(part, ensure_ascii=False))
        return " ".join(terms)

    more = f"({literal(syntax.separator)} call)*" if is_parallel else ""
    rules = [
        f"list: {literal(syntax.opening)} call {more} {literal(syntax.closing)}",
        "call: " + " | ".join(f"call_{index}" for index in range(len(tools))),
    ]
    for index, (name, schema) in enumerate(tools):
        arguments = json.dumps({**schema, "x-guidance": JSON_OPTIONS})
        rules.append(f"call_{index}: {literal(syntax.head + name + syntax.middle)} args_{index} {literal(syntax.tail)}")
        rules.append(f"args_{index}: %json {arguments}")
    begin = literal(syntax.trigger) or r"/[ \n]?/"  # behind what the template ends with
    if is_required:
        rules.append(f"start: {begin} list")
    elif text is not None:
        rules += [f"start: text | {begin} list", f"text: {text}"]
    elif not syntax.trigger:
        rules += [f"start: TEXT | {begin} list", r"TEXT: /(\s*[^\s{](.|\n)*)?/"]
    elif syntax.trigger in special:
        rules += [
            f"start: TEXT ({literal(syntax.trigger)} list)?",
            f"TEXT: /(.|\\n)*/ & ~/(.|\\n)*{_escaped(syntax.trigger)}(.|\\n)*/",
        ]
    else:
        rules += [
            "start: text | lead list",
            "text: TEXT",
            f"lead[lazy]: TEXT {literal(syntax.trigger)}",
            "TEXT: /(.|\\n)*/",
        ]
    return "\n".join(rules)


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/")
