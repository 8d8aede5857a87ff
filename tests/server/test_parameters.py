"""What the parameters of chat, completions and /generate do."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.in_process import SETTINGS, App, serving
from tests.server.tiny import RECITED, TOKENS, save_reciter

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
ASK: Any = [{"role": "user", "content": "Say"}]
END = "<|end|>"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """Its template shows its variables, and each turn ends with a special token."""
    template = (
        "{% for m in messages %}{{ m.role }}({{ m.name }}): {{ m.content }}<|end|>{% endfor %}"
        "{{ reasoning_effort }}{{ colour }}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    path = save_reciter(
        tmp_path_factory.mktemp("models") / "m",
        context=1024,
        chat_template=template,
        special_tokens=[END],
    )
    with serving(path) as app:
        yield app


def text_of(answer: dict[str, Any]) -> list[str]:
    choices = answer["choices"]
    return [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]


@pytest.mark.parametrize(("path", "prompt"), [(CHAT, {"messages": ASK}), (COMPLETIONS, {"prompt": "Say"})])
def test_n_choices_differ_and_are_those_of_their_seed(app: App, path: str, prompt: Any) -> None:
    body = {**prompt, "temperature": 2, "logit_bias": {"0": -100}, "max_tokens": 12}
    answer = app.post(path, n=3, seed=7, **body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    texts = text_of(answer)
    assert len(set(texts)) == 3
    assert texts == [text_of(app.post(path, seed=7 + index, **body))[0] for index in range(3)]
    assert answer["usage"]["completion_tokens"] == 36
    assert answer["usage"]["prompt_tokens"] == app.post(path, **body)["usage"]["prompt_tokens"]


def test_n_choices_of_each_of_several_prompts_stand_together(app: App) -> None:
    answer = app.post(COMPLETIONS, prompt=["Say", "Hi"], n=2, temperature=0)
    rest = RECITED.removeprefix(" Hi")
    assert text_of(answer) == [RECITED, RECITED, rest, rest]


def test_streamed_choices_are_told_apart(app: App) -> None:
    body = {"messages": ASK, "n": 2, "seed": 1, "temperature": 2, "max_tokens": 9, "logit_bias": {"0": -100}}
    texts = ["", ""]
    for event in app.stream(CHAT, **body):
        [choice] = event["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == text_of(app.post(CHAT, **body))


def test_best_of_returns_the_choices_of_the_highest_mean_log_probability(app: App) -> None:
    body = {"prompt": "Say", "temperature": 1.5, "seed": 3, "max_tokens": 6, "logit_bias": {"0": -100}}
    every = app.post(COMPLETIONS, n=6, logprobs=0, **body)["choices"]
    means = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]) for c in every]
    ranked = [every[index]["text"] for index in sorted(range(6), key=means.__getitem__, reverse=True)]
    best = app.post(COMPLETIONS, n=2, best_of=6, **body)
    assert text_of(best) == ranked[:2]
    assert all(choice["logprobs"] is None for choice in best["choices"])
    assert best["usage"]["completion_tokens"] == 36


@pytest.mark.parametrize(
    "body", [{"best_of": 1, "n": 2}, {"best_of": 2, "stream": True}, {"best_of": 0}, {"suffix": "x"}], ids=str
)
def test_a_best_of_or_suffix_that_cannot_be(app: App, body: Any) -> None:
    error = app.refusal(COMPLETIONS, prompt="Say", **body)
    assert error["param"] in ("best_of", "suffix")


@pytest.mark.parametrize("path", [COMPLETIONS, "/generate"])
def test_stop_ids_and_special_tokens_and_text_stop(app: App, path: str) -> None:
    def text(**fields: Any) -> tuple[str, str]:
        answer = app.post(path, prompt="Say", temperature=0, **fields)
        choice = answer["choices"][0] if "choices" in answer else {**answer, "text": answer["generated_text"][3:]}
        return choice["text"], choice["finish_reason"]

    tokenizer = app.model.tokenizer
    [comma], [end] = tokenizer.encode(","), tokenizer.encode(END)
    assert text(stop_token_ids=[comma]) == (" Hi😀", "stop")
    assert text(stop_token_ids=[comma], min_tokens=7) == (" Hi😀", "stop")
    assert text(stop_token_ids=[comma], min_tokens=8)[0] != " Hi😀"
    assert text(stop=["😀,"]) == (" Hi", "stop")
    likely = {"logit_bias": {str(end): 100}}
    assert text(stop=END, **likely) == ("", "stop")
    assert text(stop=["zzz", END], **likely) == ("", "stop")
    limit = {"max_tokens" if path == COMPLETIONS else "max_new_tokens": 5}
    assert text(**likely, **limit) == ("", "length")  # special tokens have no text
    assert text(stop=f"{END}!", **likely, **limit) == ("", "length")  # a string that holds one is text


def test_special_tokens_are_written_where_they_shall_not_be_skipped(app: App) -> None:
    [end], [comma] = app.model.tokenizer.encode(END), app.model.tokenizer.encode(",")
    body = {"prompt": "Say", "temperature": 0, "max_tokens": 3, "skip_special_tokens": False}
    bias = {"logit_bias": {str(end): 100}}
    [choice] = app.post(COMPLETIONS, **body, **bias, logprobs=0)["choices"]
    assert choice["text"] == 3 * END
    assert choice["logprobs"]["tokens"] == [END] * 3
    assert choice["logprobs"]["text_offset"] == [0, len(END), 2 * len(END)]
    stopped = app.post(COMPLETIONS, **{**body, "max_tokens": 9}, stop_token_ids=[comma])
    assert text_of(stopped) == [" Hi😀"]  # the token that ends a text is none of it
    events = app.stream(COMPLETIONS, **body, **bias)
    assert "".join(event["choices"][0]["text"] for event in events) == 3 * END


def test_min_tokens_keeps_ends_and_stop_strings_away(app: App) -> None:
    def completion(**fields: Any) -> tuple[str, int]:
        answer = app.post(COMPLETIONS, prompt="Say", temperature=0, **fields)
        return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

    assert completion() == (RECITED, TOKENS)
    text, count = completion(min_tokens=TOKENS + 3)
    assert text.startswith(RECITED)
    assert count >= TOKENS + 3
    assert completion(stop=["Hi"])[0] == " "
    assert completion(stop=["Hi"], min_tokens=4)[0] == RECITED
    assert completion(stop=["H", "!"], min_tokens=4)[0] == RECITED.removesuffix("!")


def test_ignore_eos_goes_on_to_the_limit(app: App) -> None:
    for path, prompt in ((CHAT, {"messages": ASK}), (COMPLETIONS, {"prompt": "Say"})):
        answer = app.post(path, **prompt, temperature=0, ignore_eos=True, max_tokens=40)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 40
        assert text_of(answer)[0].strip().startswith(RECITED.strip())
    answer = app.post("/generate", prompt="Say", temperature=0, ignore_eos=True, max_new_tokens=40)
    assert (answer["token_count"], answer["finish_reason"]) == (40, "length")


@pytest.mark.parametrize("prompt", ["Say", [60, 61, 62], ["Say", "Hi"]])
@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_is_the_prompt_before_the_text(app: App, prompt: Any, stream: bool) -> None:
    body = {"prompt": prompt, "temperature": 0, "max_tokens": 3}
    texts = text_of(app.post(COMPLETIONS, **body))
    prompts = prompt if isinstance(prompt[0], str) and isinstance(prompt, list) else [prompt]
    echoed = [p if isinstance(p, str) else app.model.tokenizer.decode(p) for p in prompts]
    expected = [before + text for before, text in zip(echoed, texts, strict=True)]
    if not stream:
        assert text_of(app.post(COMPLETIONS, echo=True, **body)) == expected
        return
    got = [""] * len(expected)
    for event in app.stream(COMPLETIONS, echo=True, **body):
        got[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert got == expected


def test_no_tokens_may_be_asked_for(app: App) -> None:
    answer = app.post(COMPLETIONS, prompt="Say", max_tokens=0, echo=True, logprobs=1)
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("Say", "length")
    assert answer["usage"] == {**answer["usage"], "prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}
    assert choice["logprobs"]["tokens"] == ["S", "a", "y"]


@pytest.mark.parametrize(("options", "counts"), [({}, 0), ({"include_usage": True}, 1)])
def test_usage_at_the_end_and_in_each_chunk(app: App, options: Any, counts: int) -> None:
    events = app.stream(CHAT, messages=ASK, temperature=0, stream_options=options)
    assert sum(bool(event.get("usage")) for event in events) == counts
    events = app.stream(CHAT, messages=ASK, temperature=0, stream_options={**options, "continuous_usage_stats": True})
    so_far = [event["usage"]["completion_tokens"] for event in events]
    assert so_far == sorted(so_far)
    assert so_far[-1] == app.post(CHAT, messages=ASK, temperature=0)["usage"]["completion_tokens"]
    assert len(events[-1]["choices"]) == 1 - counts


def test_obfuscation_is_filling_that_is_asked_for(app: App) -> None:
    events = app.stream(CHAT, messages=ASK, temperature=0, stream_options={"include_obfuscation": True})
    assert len({event["obfuscation"] for event in events}) > 1
    assert all("obfuscation" not in event for event in app.stream(CHAT, messages=ASK, temperature=0))


def prompt_tokens(app: App, **body: Any) -> int:
    count: int = app.post(CHAT, max_tokens=1, **body)["usage"]["prompt_tokens"]
    return count


def test_the_template_gets_its_variables_and_names(app: App) -> None:
    plain = prompt_tokens(app, messages=ASK)
    assert prompt_tokens(app, messages=ASK, reasoning_effort="high") == plain + len("high")
    assert prompt_tokens(app, messages=ASK, chat_template_kwargs={"colour": "blue"}) == plain + len("blue")
    assert prompt_tokens(app, messages=[{**ASK[0], "name": "Ada"}]) == plain + len("Ada")
    assert prompt_tokens(app, messages=ASK, add_generation_prompt=False) == plain - len("assistant: ")
    assert prompt_tokens(app, messages=ASK, chat_template_kwargs={"add": 1}) == plain


@pytest.mark.parametrize(
    ("content", "continued"), [("I say Hi", "😀,中!"), ("  I say Hi", "😀,中!"), ("Hi ", "Hi😀,中!")]
)
def test_a_last_message_is_gone_on_with(app: App, content: str, continued: str) -> None:
    messages = [*ASK, {"role": "assistant", "content": content}]
    body: Any = {"messages": messages, "temperature": 0, "continue_final_message": True}
    assert text_of(app.post(CHAT, **body)) == [continued]
    assert text_of(app.post(CHAT, echo=True, **body)) == [content + continued]


def test_an_empty_last_message_is_begun(app: App) -> None:
    empty = [*ASK, {"role": "assistant", "content": ""}]
    begun, plain = (
        app.post(CHAT, messages=messages, temperature=0, continue_final_message=messages is empty)
        for messages in (empty, ASK)
    )
    assert text_of(begun) == text_of(plain)
    assert begun["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_log_fields(server: Any, http: httpx.Client) -> None:
    body = {"messages": ASK, "user": "me", "safety_identifier": "s", "metadata": {"a": "b"}, "priority": -3}
    http.post(CHAT, json=body, headers={"X-Request-ID": "fields-1"})
    line = server.wait_for("request", request_id="fields-1")
    assert (line["user"], line["safety_identifier"], line["metadata"]) == ("me", "s", {"a": "b"})


def test_a_cache_key_parts_the_cached_prefixes(http: httpx.Client) -> None:
    prompt = "a shared beginning of its own " * 8

    def cached(key: str | None) -> int:
        answer = http.post(COMPLETIONS, json={"prompt": prompt, "max_tokens": 1, "prompt_cache_key": key}).json()
        count: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    assert [cached(key) > 0 for key in ("a", "a", "b", None, "b", None)] == [False, True, False, False, True, True]


@pytest.mark.parametrize(("generation_config", "is_greedy"), [("auto", True), ("none", False)])
def test_sampling_defaults_of_the_model_count_where_they_are_asked_for(
    tmp_path: Path, generation_config: Any, is_greedy: bool
) -> None:
    path = save_reciter(tmp_path / "m", sampling={"temperature": 0.0, "top_k": 1, "repetition_penalty": 1.5})
    settings = replace(SETTINGS, generation_config=generation_config, default_max_tokens="context")
    with serving(path, settings) as app:
        endless: Any = {"prompt": "Say", "logit_bias": {"0": -100}}
        texts = {app.post(COMPLETIONS, seed=seed, **endless)["choices"][0]["text"] for seed in (1, 2)}
        assert (len(texts) == 1) is is_greedy
        wild = {
            app.post("/generate", prompt="Say", max_new_tokens=9, temperature=5, top_k=0, seed=s)["generated_text"]
            for s in (1, 2)
        }
        assert len(wild) == 2
        usage = app.post(COMPLETIONS, **endless)["usage"]
        assert usage["total_tokens"] == app.model.max_len
    written = json.loads((path / "generation_config.json").read_text(encoding="utf-8"))
    assert (written["top_k"], written["repetition_penalty"]) == (1, 1.5)


def test_a_bos_before_raw_text_and_none_before_a_chat(tmp_path: Path) -> None:
    with serving(save_reciter(tmp_path / "m", adds_bos=True)) as app:

        def counts(**fields: Any) -> list[int]:
            requests: list[Any] = [
                (COMPLETIONS, {"prompt": "Say"}),
                (COMPLETIONS, {"prompt": [60, 61]}),
                (CHAT, {"messages": ASK}),
            ]
            return [app.post(path, max_tokens=1, **body, **fields)["usage"]["prompt_tokens"] for path, body in requests]

        chat = len("User: Say\nAssistant:")
        assert counts() == [4, 2, chat]
        assert counts(add_special_tokens=True) == [4, 2, chat + 1]
        assert counts(add_special_tokens=False) == [3, 2, chat]
        full: Any = {"prompt": "y" * (app.model.max_len - 1), "max_new_tokens": 1}
        assert app.refusal("/generate", **full)["code"] == "context_length_exceeded"
        assert app.post("/generate", **full, add_special_tokens=False)["token_count"] == 1
