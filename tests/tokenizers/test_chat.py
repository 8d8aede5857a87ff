"""Chat templates: transformers' apply_chat_template is the oracle."""

from datetime import datetime

import pytest
from transformers import AutoTokenizer

from llm_jax.errors import RequestError
from llm_jax.tokenizers import CharacterTokenizer, load_tokenizer, render_chat

CHAT = [
    {"role": "system", "content": "Be <kind> & brief."},
    {"role": "user", "content": "Hello, 漢字!\nHow are you?"},
    {"role": "assistant", "content": "  Well, thanks.  "},
    {"role": "user", "content": "What is 2 + 3?"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <two> numbers: a & b",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
        },
    }
]

MARKED_TURNS = """\
{%- if messages[0].role != 'system' %}
    {{- '<|start|>system\\nYou answer.<|stop|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
{{- '<|start|>assistant\\n' }}{% generation %}{{ message.content | trim }}<|stop|>{% endgeneration %}{{ '\\n' }}
    {%- else %}
        {{- '<|start|>' + message.role + '\\n' + message.content + '<|stop|>\\n' }}
    {%- endif %}
{%- endfor %}
{% if add_generation_prompt %}
<|start|>assistant
{% endif %}"""

STRICT_TURNS = """\
{% set ns = namespace(turn=0) %}
{{ bos_token }}
{% for message in messages %}
    {% if message['role'] == 'system' %}
        {% continue %}
    {% endif %}
    {% if (message['role'] == 'user') != (ns.turn % 2 == 0) %}
        {{ raise_exception('Roles must take turns: user, assistant, user, …') }}
    {% endif %}
    {% set ns.turn = ns.turn + 1 %}
    {% if message['role'] == 'user' %}
[Q] {{ message['content'] }} [/Q]
    {% else %}
 {{ message['content'] | trim }}{{ eos_token }}
    {% endif %}
{% endfor %}"""

TOOL_TURNS = """\
{%- set today = strftime_now("%d %B %Y") %}
{{- bos_token + "Today is " + today + ".\\n" }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=2) }}
        {{- "\\n" }}
    {%- endfor %}
{%- endif %}
{%- for message in messages if message.content is string %}
    {{- loop.index ~ "/" ~ loop.length ~ " " ~ message.role ~ ": " ~ message.content | tojson ~ "\\n" }}
    {%- if loop.index == 3 %}{% break %}{% endif %}
{%- endfor %}
{%- if thinking is defined and thinking %}{{ "(think)" }}{% endif %}"""


@pytest.fixture
def tokenizers(bpe, tmp_path):
    """The tokenizer of a directory with the given template, here and in transformers."""

    def open_both(template):
        bpe.save_pretrained(tmp_path)
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
        return load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)

    return open_both


@pytest.mark.parametrize("template", [MARKED_TURNS, STRICT_TURNS, TOOL_TURNS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("messages", [CHAT, CHAT[1:2]])
def test_renders_as_transformers_does(tokenizers, template, add_generation_prompt, tools, messages):
    tokenizer, oracle = tokenizers(template)
    options = {"tools": tools, "add_generation_prompt": add_generation_prompt}
    expected = oracle.apply_chat_template(messages, tokenize=False, **options)
    assert render_chat(tokenizer, messages, **options) == expected
    assert len(expected) > 10


def test_more_variables_reach_the_template(tokenizers):
    tokenizer, oracle = tokenizers(TOOL_TURNS)
    rendered = render_chat(tokenizer, CHAT, thinking=True)
    assert rendered == oracle.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, thinking=True)
    assert rendered.endswith("(think)")
    assert datetime.now().strftime("%Y") in rendered


def test_named_templates_are_chosen_by_the_tools():
    named = {"default": "plain", "tool_use": "with tools"}
    tokenizer = CharacterTokenizer(["a"], chat_template=named)
    assert render_chat(tokenizer, CHAT) == "plain"
    assert render_chat(tokenizer, CHAT, tools=TOOLS) == "with tools"


def test_the_default_format():
    tokenizer = CharacterTokenizer(["a"])
    assert render_chat(tokenizer, CHAT) == (
        "System: Be <kind> & brief.\n"
        "User: Hello, 漢字!\nHow are you?\n"
        "Assistant:   Well, thanks.  \n"
        "User: What is 2 + 3?\n"
        "Assistant:"
    )
    assert render_chat(tokenizer, CHAT[1:2], add_generation_prompt=False) == "User: Hello, 漢字!\nHow are you?\n"
    assert (
        render_chat(tokenizer, [{"role": "assistant", "content": None}], add_generation_prompt=False) == "Assistant: \n"
    )


def test_messages_that_a_template_refuses_are_a_request_error(tokenizers):
    tokenizer, _ = tokenizers(STRICT_TURNS)
    with pytest.raises(RequestError, match="Roles must take turns") as caught:
        render_chat(tokenizer, [CHAT[1], CHAT[1]])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% if %}",
    ],
)
def test_a_hostile_or_broken_template_is_refused(template):
    with pytest.raises(RequestError):
        render_chat(CharacterTokenizer(["a"], chat_template=template), [])
