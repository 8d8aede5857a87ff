"""What the assistant says: transformers' apply_chat_template(return_assistant_tokens_mask=True) is the oracle."""

from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import processors
from transformers import AutoTokenizer

from llm_jax.errors import RequestError
from llm_jax.tokenizers import (
    CharacterTokenizer,
    HFTokenizer,
    encode_answers,
    find_answers,
    load_tokenizer,
    render_chat,
)
from tests.real_models import real
from tests.tokenizers.test_chat import CHAT, MARKED_TURNS, STRICT_TURNS, TOOLS

TURNS = [
    *CHAT,
    {"role": "assistant", "content": "5 🙂 é"},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "x"},
]
CALLS = [
    {"role": "user", "content": "2 + 3?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}],
    },
    {"role": "tool", "content": "5"},
    {"role": "assistant", "content": "It is 5."},
]
CHATML = """\
{%- if tools %}{{ '<|start|>system\\n' ~ (tools | tojson) ~ '<|stop|>\\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}{{ '<call>' ~ (call.function | tojson) }}{% endfor %}
        {{- '<|stop|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|stop|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"""


@pytest.fixture(params=["bpe", "sentencepiece"])
def tokenizers(request, tmp_path):
    """A tokenizer with a template, here and in transformers."""
    made = request.getfixturevalue(request.param)

    def open_both(template):
        made.save_pretrained(tmp_path)
        (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
        return load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)

    return open_both


@pytest.mark.parametrize("template", [MARKED_TURNS, CHATML])
@pytest.mark.parametrize(("messages", "tools"), [(TURNS, None), (CALLS, TOOLS), (CHAT[:2], None)])
def test_marked_answers_are_those_of_transformers(tokenizers, template, messages, tools):
    tokenizer, oracle = tokenizers(template)
    expected = oracle.apply_chat_template(
        messages, tools=tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    if not any(message["role"] == "assistant" for message in messages):
        assert find_answers(tokenizer, messages, tools=tools)[0][1] == []
        return
    (rendered,) = find_answers(tokenizer, messages, tools=tools)
    ids, belongs = encode_answers(tokenizer, *rendered)
    assert ids == expected["input_ids"]
    assert belongs == [bool(mark) for mark in expected["assistant_masks"]]
    assert 0 < sum(belongs) < len(ids)


@pytest.mark.parametrize(("messages", "tools"), [(TURNS, None), (CALLS, TOOLS)])
def test_the_difference_of_renderings_finds_what_marks_do(tokenizers, messages, tools):
    """But for the line's end behind each turn, which a rendering includes."""
    marked, _ = tokenizers(CHATML)
    ((text, answers),) = find_answers(marked, messages, tools=tools)
    unmarked, _ = tokenizers(CHATML.replace("{%- generation %}", "").replace("{%- endgeneration %}", ""))
    assert find_answers(unmarked, messages, tools=tools) == [(text, [(begin, end + 1) for begin, end in answers])]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.sampled_from(["The cat", " sat", "\n", "  ", " 漢字", "🙂", "é", "x"]), min_size=1, max_size=8),
    data=st.data(),
)
@pytest.mark.parametrize("trims", [False, True])
def test_a_token_belongs_where_one_of_its_bytes_does(bpe, trims, parts, data):
    """Byte-level tokens are so many bytes of the text; GPT-2's post-processor leaves spaces out of their offsets."""
    backend = Backend.from_str(bpe.to_json())
    backend.post_processor = processors.ByteLevel(trim_offsets=trims)
    tokenizer, text = HFTokenizer(backend), "".join(parts)
    begin = data.draw(st.integers(0, len(text)))
    # With spaces left out, a token of spaces behind something else seems to end before them.
    begins_at_space = trims and text[begin : begin + 1].isspace()
    end = begin if begins_at_space else data.draw(st.integers(begin, len(text)))
    ids, belongs = encode_answers(tokenizer, text, [(begin, end)])
    first, last = len(text[:begin].encode()), len(text[:end].encode())
    ends = list(accumulate(len(tokenizer.token_bytes(index)) for index in ids))
    assert belongs == [first < last and a < last and b > first for a, b in zip([0, *ends], ends, strict=False)]


def test_all_of_a_text_is_all_of_its_tokens(any_tokenizer):
    text = "The cat saw 漢字 and 🙂 é, then  it sat."
    ids, ends = any_tokenizer.encode_with_ends(text)
    assert ids == any_tokenizer.encode(text)
    assert max(ends) == len(text)
    assert encode_answers(any_tokenizer, text, [(0, len(text))]) == (ids, [True] * len(ids))
    assert encode_answers(any_tokenizer, text, []) == (ids, [False] * len(ids))


def test_characters_are_tokens_of_their_own():
    tokenizer = CharacterTokenizer(["abc"])
    ids, ends = tokenizer.encode_with_ends("ab<PAD>c")
    assert (ids, ends) == (tokenizer.encode("ab<PAD>c"), [1, 2, 7, 8])


def check_each_answer_follows_its_prompt(tokenizer, messages, tools=None):
    """Every answer is in one text, written as the model writes it, behind what the model saw then."""
    texts = find_answers(tokenizer, messages, tools=tools)
    found = sorted((text[:begin], text[begin:end]) for text, answers in texts for begin, end in answers)
    expected = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = render_chat(tokenizer, messages[:index], tools=tools)
            whole = render_chat(tokenizer, messages[: index + 1], tools=tools, add_generation_prompt=False)
            expected.append((prompt, whole[len(prompt) :]))
    assert found == sorted(expected)
    return texts


def test_an_answer_that_is_written_in_another_way_later_has_a_text_of_its_own(tokenizers):
    forgets = CHATML.replace("{{- message.content }}", "{{- message.content if loop.last else '…' }}")
    tokenizer, _ = tokenizers(forgets.replace("{%- generation %}", "").replace("{%- endgeneration %}", ""))
    texts = check_each_answer_follows_its_prompt(tokenizer, TURNS)
    assert [len(answers) for _, answers in texts] == [1, 1, 1]
    assert find_answers(tokenizer, TURNS, given=len(TURNS) - 1) == texts[-1:], "earlier ones are given"


def test_thoughts_of_earlier_answers_are_dropped_as_qwen_3_does():
    """Calls and their results belong to one turn, whose thoughts stay."""
    tokenizer = load_tokenizer(real("qwen3"))
    thinking = [
        {**turn, "content": f"<think>\nHm, {turn['content']}\n</think>\n\n{turn['content']}"}
        if turn["role"] == "assistant"
        else turn
        for turn in [*CALLS, *TURNS[-2:]]
    ]
    for messages, tools in ((TURNS, None), (thinking, TOOLS), (CALLS, TOOLS)):
        check_each_answer_follows_its_prompt(tokenizer, messages, tools)
    (calls, last) = find_answers(tokenizer, thinking, tools=TOOLS)
    assert [text.count("Hm") for text, _ in (calls, last)] == [2, 1]
    assert len(calls[1]) == 2


def test_a_template_whose_prompt_is_no_beginning_is_refused(tokenizers):
    tokenizer, _ = tokenizers(STRICT_TURNS + "{% if add_generation_prompt %}<think>{% endif %}")
    with pytest.raises(RequestError, match=r"messages\[1\] in another way"):
        find_answers(tokenizer, TURNS[1:3])


def test_marks_that_mark_nothing_are_refused(tokenizers):
    tokenizer, _ = tokenizers(
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if 0 %}{% generation %}{% endgeneration %}{% endif %}"
    )
    with pytest.raises(RequestError, match="marks none of the assistant's words"):
        find_answers(tokenizer, TURNS)


def test_marks_survive_what_a_template_does_to_an_answer(tokenizers):
    """Where blocks are captured and trimmed as a whole."""
    captured = (
        "{% for m in messages %}{% set turn %}  [{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}]  {% endset %}{{ turn | trim }}{% endfor %}"
    )
    tokenizer, _ = tokenizers(captured)
    ((text, answers),) = find_answers(tokenizer, TURNS)
    assert [text[begin:end] for begin, end in answers] == ["Well, thanks.", "5 🙂 é", "x"]
    assert text.count("[") == len(TURNS)
