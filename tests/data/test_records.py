"""Records are recognised by their fields; what is broken is named."""

import pytest

from llm_jax.data import Completion, Conversation, Preference, encode_record, read_record
from llm_jax.errors import DataError
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer

USER, ANSWER = {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}
OTHER = {"role": "assistant", "content": "3"}
SCHEMA = {"name": "add", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": SCHEMA}


@pytest.mark.parametrize(
    ("fields", "record"),
    [
        ({"text": "a", "id": 3}, "a"),
        ({"messages": [USER, ANSWER]}, Conversation((USER, ANSWER))),
        ({"messages": [USER, ANSWER], "tools": None, "prompt": "a", "chosen": 1}, Conversation((USER, ANSWER))),
        ({"messages": [USER, ANSWER | {"tool_calls": None}], "tools": [SCHEMA]}, Conversation((USER, ANSWER), (TOOL,))),
        ({"messages": {"role": ["user", "assistant"], "content": ["1 + 1?", "2"]}}, Conversation((USER, ANSWER))),
        (
            {"messages": [USER | {"content": [{"type": "text", "text": t} for t in ("1 + ", "1?")]}, ANSWER]},
            Conversation((USER, ANSWER)),
        ),
        (
            {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}], "system": "Add."},
            Conversation(({"role": "system", "content": "Add."}, USER, ANSWER)),
        ),
        ({"conversations": [USER, ANSWER], "tools": '[{"name": "add", "parameters": {"type": "object"}}]'},
         Conversation((USER, ANSWER), (TOOL,))),
        ({"prompt": "1 + 1 =", "completion": " 2"}, Completion("1 + 1 =", " 2")),
        ({"instruction": "1 + 1?", "input": "", "output": "2"}, Conversation((USER, ANSWER))),
        (
            {"instruction": "Add.", "input": "1, 1", "output": "2", "system": "Be brief."},
            Conversation(
                (
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Add.\n\n1, 1"},
                    {"role": "assistant", "content": "2"},
                )
            ),
        ),
        ({"prompt": [USER], "completion": [ANSWER]}, Conversation((USER, ANSWER), (), 1)),
    ],
)  # fmt: skip
def test_what_is_to_be_answered(fields, record):
    assert read_record(fields, "answers") == record


def test_calls_are_objects_for_the_template():
    call = {"name": "add", "arguments": '{"a": 1}'}
    for calls in ([{"type": "function", "function": call}], [call], [call | {"arguments": {"a": 1}}]):
        said = {"role": "assistant", "content": None, "tool_calls": calls}
        record = read_record({"messages": [USER, said]}, "answers")
        function = {"name": "add", "arguments": {"a": 1}}
        assert record.messages[1] == {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        }


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]},
        {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
        {"prompt": "1 + 1?", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "messages": [USER]},
        {"prompt": "1 + 1?", "chosen": [ANSWER], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
    ],
)
def test_preferences_between_messages(fields):
    expected = Preference(Conversation((USER, ANSWER), (), 1), Conversation((USER, OTHER), (), 1))
    assert read_record(fields, "preferences") == expected


def test_preferences_between_texts():
    given = {"prompt": "Q: 1 + 1?\nA:", "chosen": " 2", "rejected": " 3"}
    expected = Preference(Completion("Q: 1 + 1?\nA:", " 2"), Completion("Q: 1 + 1?\nA:", " 3"))
    assert read_record(given, "preferences") == expected
    assert read_record({"chosen": "Q: 1 + 1?\nA: 2", "rejected": "Q: 1 + 1?\nA: 3"}, "preferences") == expected
    cut = read_record({"chosen": "Q: hello you", "rejected": "Q: hello yet"}, "preferences")
    assert cut == Preference(Completion("Q: hello", " you"), Completion("Q: hello", " yet")), "at a whole word"


@pytest.mark.parametrize(
    ("fields", "form", "says"),
    [
        (
            {"question": "a", "answer": "b"},
            "answers",
            "the fields are answer, question; a record needs messages;",
        ),
        ({"text": None}, "text", "the fields are none"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "text", "a preference between two answers, for --task dpo"),
        ({"messages": [USER, ANSWER]}, "preferences", "a record needs chosen and rejected"),
        ({"text": 3}, "text", "text is 3; it must be text"),
        ({"messages": "hi"}, "answers", "messages is 'hi'; it must be a list of objects"),
        ({"messages": []}, "answers", "messages is empty"),
        ({"messages": [USER, "hi"]}, "answers", r"messages\[1\] is 'hi'; it must be an object"),
        ({"messages": [{"content": "a"}]}, "answers", r"messages\[0\].role is None"),
        ({"messages": [USER, {"role": "assistant", "content": 5}]}, "answers", r"messages\[1\].content is 5"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "answers", r"content\[0\] is .*text alone"),
        ({"messages": [USER]}, "answers", "none of the assistant"),
        ({"messages": [USER, ANSWER | {"tool_calls": [{"name": "f", "arguments": "{"}]}]}, "answers", "is not JSON"),
        ({"messages": [USER, ANSWER], "tools": [{}]}, "answers", r"tools\[0\] has no name"),
        ({"conversations": [{"from": "bot", "value": "a"}]}, "answers", r"conversations\[0\].from is 'bot'.* human"),
        ({"conversations": [{"from": "gpt", "value": 1}]}, "answers", r"conversations\[0\].value is 1"),
        ({"prompt": [USER], "completion": [USER]}, "answers", "completion has no message of the assistant"),
        ({"prompt": 1, "completion": "a"}, "answers", "prompt is 1; it must be text"),
        ({"chosen": "a", "rejected": [ANSWER]}, "preferences", "must both be"),
        ({"chosen": [USER, ANSWER], "rejected": [ANSWER, ANSWER]}, "preferences", "no message in common"),
        ({"chosen": "one", "rejected": "two"}, "preferences", "no word in common"),
    ],
)
def test_what_is_broken_is_named(fields, form, says):
    with pytest.raises(DataError, match=says):
        read_record(fields, form)


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(["User: Assistant: 1 + 1? 2 3\n"] * 3, 270)


def learnt(tokenizer, record, form="answers"):
    """What is learnt of each sequence, as ids."""
    return [
        [index for index, mark in zip(sequence.ids, sequence.learnt or [1] * len(sequence.ids), strict=True) if mark]
        for sequence in encode_record(tokenizer, record, form)
    ]


def test_answers_alone_are_learnt_with_their_end(bpe):
    end = [bpe.eos_token_id]
    turns = Conversation((USER, ANSWER, USER, OTHER))
    assert learnt(bpe, turns) == [[*bpe.encode(" 2\n"), *bpe.encode(" 3\n"), *end]]
    assert bpe.decode(list(encode_record(bpe, turns, "answers")[0].ids)) == (
        "User: 1 + 1?\nAssistant: 2\nUser: 1 + 1?\nAssistant: 3\n"
    )
    assert learnt(bpe, Conversation(turns.messages, (), 3)) == [[*bpe.encode(" 3\n"), *end]], "the others are given"
    assert learnt(bpe, Completion("1 + 1?", " 2")) == [[*bpe.encode(" 2"), *end]]
    assert learnt(bpe, "1 + 1") == [[*bpe.encode("1 + 1"), *end]]
    whole = encode_record(bpe, turns, "text")[0]
    assert whole.learnt is None
    assert learnt(bpe, Preference(Completion("1 +", " 2"), Completion("1 +", " 3")), "preferences") == [
        [*bpe.encode(" 2"), *end],
        [*bpe.encode(" 3"), *end],
    ]


def test_a_special_token_that_ends_an_answer_is_its_end(bpe):
    template = "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    template += "<|endoftext|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    bpe = BPETokenizer(bpe._backend, chat_template=template)
    assert learnt(bpe, Conversation((USER, ANSWER))) == [[*bpe.encode("2"), bpe.eos_token_id]]


def test_without_an_end_of_text_a_blank_line_ends_a_document():
    tokenizer = CharacterTokenizer(["ab \n"])
    assert tokenizer.decode(encode_record(tokenizer, "ab", "text")[0].ids.tolist()) == "ab\n\n"


def test_tools_are_described_where_the_template_knows_none(bpe):
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = (
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        ANSWER,
    )
    (sequence,) = encode_record(bpe, Conversation(messages, (TOOL,)), "answers")
    text = bpe.decode(sequence.ids)
    assert '"name": "add", "parameters"' in text
    assert 'Assistant: {"name": "add", "arguments": {"a": 1}}\n' in text
    assert (
        bpe.decode(learnt(bpe, Conversation(messages, (TOOL,)))[0]) == ' {"name": "add", "arguments": {"a": 1}}\n 2\n'
    )


def test_answers_that_a_template_writes_in_another_way_later_are_sequences_of_their_own(bpe):
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content if loop.last or m.role == 'user' else '-' }}\n{% endfor %}"
    )
    bpe = BPETokenizer(bpe._backend, chat_template=template + "{% if add_generation_prompt %}assistant:{% endif %}")
    turns = Conversation((USER, ANSWER, USER, OTHER))
    end = [bpe.eos_token_id]
    assert learnt(bpe, turns) == [[*bpe.encode("2\n"), *end], [*bpe.encode("3\n"), *end]]
    assert learnt(bpe, Conversation(turns.messages, (), 3)) == [[*bpe.encode("3\n"), *end]]
    assert bpe.decode(encode_record(bpe, turns, "text")[0].ids).startswith("user:1 + 1?\nassistant:-\n"), "once"
    pair = Preference(Conversation(turns.messages, (), 3), Conversation((*turns.messages[:3], ANSWER), (), 3))
    assert len(encode_record(bpe, pair, "preferences")) == 2
    with pytest.raises(DataError, match="into prompt"):
        encode_record(bpe, Preference(turns, turns), "preferences")


def test_what_a_template_refuses_is_said(bpe):
    bpe = BPETokenizer(bpe._backend, chat_template="{{ raise_exception('Turns!') }}")
    with pytest.raises(DataError, match="Turns!"):
        encode_record(bpe, Conversation((USER, ANSWER)), "answers")
