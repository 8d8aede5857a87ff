"""Messages to a prompt, by the Jinja chat template of a tokenizer."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llm_jax.errors import RequestError
from llm_jax.tokenizers.base import Tokenizer

# One turn per line, for models that were trained on plain text such as the bundled corpus.
DEFAULT_CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- message.role | capitalize }}: {{ message.content or '' }}{{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}"""

GENERATION_MARKS = "_generation_begins", "_generation_ends"


def render_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    /,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The prompt text for a conversation.

    Args:
        tokenizer: its `chat_template` is used, `DEFAULT_CHAT_TEMPLATE` where it has none.
        messages: dicts with "role" and "content", as in OpenAI's API.
        tools: function schemas, for templates that describe them to the model.
        add_generation_prompt: append the beginning of an assistant's turn.
        variables: further variables of the template, such as enable_thinking.

    Raises:
        RequestError: the template refuses these messages.
    """
    try:
        return _compile(chat_template_source(tokenizer, tools)).render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **{**tokenizer.special_tokens, **variables},
        )
    except Exception as error:  # templates are programs, which may fail in any way
        reason = str(error) or type(error).__name__
        raise RequestError(f"The chat template cannot render these messages: {reason}", param="messages") from error


def answer_bounds(tokenizer: Tokenizer) -> tuple[tuple[str, ...], str]:
    """The stop strings of an answer, in addition to the end-of-text token, and the prefix to strip from it."""
    if tokenizer.chat_template in (None, DEFAULT_CHAT_TEMPLATE):
        # Learned from plain text, one turn per line, without an end-of-turn token.
        return ("\nUser:",), " "
    return (), ""


def chat_template_source(tokenizer: Tokenizer, tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The Jinja source that renders a conversation with these tools."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("tool_use") if tools and "tool_use" in template else template.get("default")
    return DEFAULT_CHAT_TEMPLATE if template is None else template


@lru_cache(maxsize=8)
def _compile(source: str) -> Template:
    """Compiles in transformers' environment, which templates are written for; sandboxed, as they are untrusted."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment.from_string(source)


class _GenerationBlock(Extension):
    """{% generation %} … {% endgeneration %} marks the assistant's words for training.

    They are rendered between the variables of GENERATION_MARKS, which are empty where they are not given.
    """

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance attribute)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([nodes.Name(name, "load")]).set_lineno(line) for name in GENERATION_MARKS)
        return [begin, *body, end]


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes characters of HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
