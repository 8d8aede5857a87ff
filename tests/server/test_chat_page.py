"""The chat page in a real browser, before a real server that wants a key."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import Server, running
from tests.server.tiny import save_reciter

pytest.importorskip("playwright", reason="the chat page is tested with playwright: `make test-page` installs it")

from playwright.sync_api import Browser, Page, expect

from tests.server.chromium import chromium

KEY = "the-right-key"
HOSTILE = [
    "<img src=x onerror=alert(1)><script>alert(1)</script>",
    "[a](javascript:alert(1)) [b](data:text/html,x) [c](vbscript:x) [d]( JaVaScRiPt:alert(1)) [e](/v1/models) [f](//h)",
    '[x](https://h/" onmouseover="alert(1)) ![pixel](https://tracker.example/p.png)',
    '```<script>\nalert(1)\n```\n\n<https://h/"><script>>',
    ">" * 5000 + "\n" + "\n".join(" " * i + "- x" for i in range(500)) + "\n" + "*a " * 5000 + "b* " * 5000,
]
MARKDOWN = {
    "# Title #\ntext": '<h3 class="heading-1">Title</h3><p>text</p>',
    "a **b *c* d** `e*` ~~f~~ g_h_i": "<p>a <strong>b <em>c</em> d</strong> <code>e*</code> <del>f</del> g_h_i</p>",
    "2 * 3 * 4 **open": "<p>2 * 3 * 4 **open</p>",
    "- a\n  1. b\n- c\n\nd": "<ul><li>a<ol><li>b</li></ol></li><li>c</li></ul><p>d</p>",
    "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "> a\n> - b\n\n---": "<blockquote><p>a</p><ul><li>b</li></ul></blockquote><hr>",
    "a & b <i>c</i>\nd": "<p>a &amp; b &lt;i&gt;c&lt;/i&gt;<br>d</p>",
}  # the renderer's output against what CommonMark's reference implementation gives, but headings two levels down


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = save_reciter(tmp_path_factory.mktemp("models"), "abcde ", context=2**15, is_endless=True)
    with running(model_path=model, api_key=KEY, open_metrics=True) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page as someone finds it who has never been there; every request must go to the server."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith((server.url, "blob:")) or problems.append(request.url))
    page.goto(server.url)
    yield page
    context.close()
    assert problems == []


@pytest.fixture
def ready(page: Page) -> Page:
    """The page with the key entered."""
    page.get_by_role("button", name="Enter it").click()
    page.get_by_label("Key", exact=True).fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    return page


def send(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def be_greedy(page: Page, number: int) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Longest answer").fill(str(number))
    page.get_by_role("button", name="Done").click()


def answers(page: Page) -> list[str]:
    return page.locator(".assistant .body").all_inner_texts()


def test_a_wrong_key_is_asked_for_again_and_the_right_one_is_forgotten_with_the_tab(page: Page) -> None:
    expect(page.get_by_role("alert").first).to_contain_text("needs an API key")
    page.get_by_role("button", name="Enter it").click()
    page.get_by_label("Key", exact=True).fill("a-wrong-key")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-problem")).to_contain_text("does not know this key")
    page.get_by_label("Key", exact=True).fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("llm")
    page.reload()
    expect(page.get_by_label("Model", exact=True)).to_have_value("llm")
    assert KEY not in page.evaluate("JSON.stringify(localStorage)")
    with page.context.expect_page() as opened:
        page.evaluate("open(location.href, '_blank', 'noopener')")
    expect(opened.value.get_by_role("alert").first).to_contain_text("needs an API key")


def test_an_answer_streams_until_it_is_stopped_and_is_there_after_a_reload(ready: Page, server: Server) -> None:
    be_greedy(ready, 30_000)
    send(ready, "Go on")
    for length in (1, 20):  # it grows
        expect(ready.locator(".assistant .body")).to_contain_text("abcde " * length)
    ready.get_by_role("button", name="Stop").click()
    expect(ready.get_by_text("Stopped.", exact=True).first).to_be_visible()
    [stopped] = answers(ready)
    assert stopped.startswith("abcde abcde")
    expect(ready.locator(".figures")).to_contain_text("tokens/s")
    expect(ready.locator("#context-text")).to_contain_text("/ 32,768 tokens")
    while server.metric("llm_num_requests_running"):
        pass
    ready.reload()
    expect(ready.locator(".user .body")).to_have_text("Go on")
    assert answers(ready) == [stopped]


def test_an_answer_at_its_limit_goes_on_where_it_ended(ready: Page) -> None:
    be_greedy(ready, 3)
    send(ready, "Go on")
    expect(ready.get_by_text("Cut off at its token limit.")).to_be_visible()
    ready.get_by_role("button", name="Continue").click()
    expect(ready.locator(".assistant .body")).to_have_text("abcde")  # the blank at its end is not shown
    expect(ready.locator(".assistant .figures")).to_contain_text("3 tokens")


def test_edited_and_repeated_messages_are_versions_of_which_none_is_lost(ready: Page) -> None:
    be_greedy(ready, 4)
    send(ready, "First")
    ready.get_by_role("button", name="Retry").click()
    expect(ready.locator(".assistant .switcher")).to_contain_text("2 / 2")
    ready.get_by_label("Message", exact=True).press("ArrowUp")  # edits the last message
    ready.get_by_label("Edit the message").fill("Second")
    ready.keyboard.press("Enter")
    expect(ready.locator(".user .switcher")).to_contain_text("2 / 2")
    expect(ready.locator(".user .body")).to_have_text("Second")
    expect(ready.locator(".assistant .body")).to_have_text("abcd")
    ready.get_by_role("button", name="Version before").click()
    expect(ready.locator(".user .body")).to_have_text("First")
    expect(ready.locator(".assistant .switcher")).to_contain_text("2 / 2")


def test_two_hundred_messages_are_imported_shown_and_exported_as_they_are(ready: Page, tmp_path: Path) -> None:
    roles = ("user", "assistant")
    messages = [
        {"id": f"m{i}", "parent": f"m{i - 1}" if i else None, "role": roles[i % 2], "content": f"**Message** {i}"}
        for i in range(200)
    ]
    conversation = {"id": "long", "title": "A long one", "messages": messages, "leaf": "m199"}
    file = tmp_path / "chats.json"
    file.write_text(json.dumps({"format": "llm-chat", "version": 1, "conversations": [conversation]}), encoding="utf-8")
    ready.locator("#import-file").set_input_files(file)
    expect(ready.locator("#messages > li")).to_have_count(200)
    expect(ready.locator(".assistant .body").last).to_be_in_viewport()
    assert ready.locator(".assistant .body strong").count() == 100
    with ready.expect_download() as download:
        ready.get_by_role("button", name="Export all").click()
    exported = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert [one["title"] for one in exported["conversations"]] == ["A long one"]
    texts = [{key: message[key] for key in messages[0]} for message in exported["conversations"][0]["messages"]]
    assert texts == messages
    assert KEY not in json.dumps(exported)
    file.write_text('{"format": "llm-chat", "version": 1, "conversations": [{"id": 1, "messages": []}]}')
    ready.locator("#import-file").set_input_files(file)
    expect(ready.get_by_role("alert").first).to_contain_text("damaged")


def test_the_theme_is_the_systems_unless_one_is_chosen(ready: Page) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = ready.evaluate(background)
    ready.emulate_media(color_scheme="dark")
    dark = ready.evaluate(background)
    assert dark != light
    ready.get_by_role("button", name="Settings").click()
    ready.get_by_label("Light").check()
    assert ready.evaluate(background) == light
    ready.reload()
    assert ready.evaluate(background) == light


def test_markdown_becomes_elements_as_it_streams(ready: Page) -> None:
    rendered = ready.evaluate(
        """async (texts) => {
            const { MarkdownView } = await import("./static/markdown.js");
            return texts.map((text) => {
                const frame = document.createElement("div");
                const view = new MarkdownView(frame);
                for (let length = 0; length <= text.length; length++) view.update(text.slice(0, length));
                return frame.innerHTML;
            });
        }""",
        list(MARKDOWN),
    )
    assert dict(zip(MARKDOWN, rendered, strict=True)) == MARKDOWN


def test_what_a_model_writes_cannot_act(ready: Page) -> None:
    outcome = ready.evaluate(
        """async (texts) => {
            const { MarkdownView } = await import("./static/markdown.js");
            const frame = document.createElement("div");
            for (const text of texts) {
                const part = document.createElement("div");
                new MarkdownView(part).update(text);
                frame.append(part);
            }
            document.body.append(frame);
            const nodes = [...frame.querySelectorAll("*")];
            let parsed = "parsed";
            try { frame.innerHTML = "<b>x</b>"; } catch (error) { parsed = error.name; }
            return {
                tags: [...new Set(nodes.map((node) => node.tagName.toLowerCase()))],
                attributes: [...new Set(nodes.flatMap((node) => node.getAttributeNames()))],
                protocols: [...new Set([...frame.querySelectorAll("a")].map((a) => a.protocol))],
                parsed,
            };
        }""",
        HOSTILE,
    )
    assert not {"img", "script", "iframe", "style"} & set(outcome["tags"])
    assert set(outcome["attributes"]) <= {"class", "href", "rel", "target", "type", "tabindex", "role", "aria-label"}
    assert outcome["protocols"] == ["https:"]
    assert outcome["parsed"] == "TypeError"  # the policy forbids to parse HTML at all


def test_the_keyboard_reaches_everything_and_everything_has_a_name(ready: Page) -> None:
    be_greedy(ready, 4)
    send(ready, "Hello")
    expect(ready.locator("#status")).to_have_text("abcd")  # what a screen reader says
    ready.get_by_label("Message", exact=True).focus()
    names = set()
    for _ in range(30):
        ready.keyboard.press("Tab")
        names.add(ready.evaluate("document.activeElement.ariaLabel || document.activeElement.innerText"))
    assert {"Go to the message field", "New chat", "Settings", "Edit", "Retry", "Copy", "Delete: Hello"} <= names
    nameless = ready.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea")]
            .filter((node) => !node.hidden && !node.ariaLabel && !node.textContent.trim() && !node.labels?.length)
            .map((node) => node.outerHTML)"""
    )
    assert nameless == []


def test_the_list_lies_over_the_conversation_on_a_phone(ready: Page) -> None:
    ready.set_viewport_size({"width": 390, "height": 800})
    expect(ready.get_by_role("button", name="New chat")).to_be_hidden()
    ready.get_by_role("button", name="Chats").click()
    expect(ready.get_by_role("button", name="New chat")).to_be_focused()
    ready.keyboard.press("Escape")
    expect(ready.get_by_role("button", name="New chat")).to_be_hidden()
    assert ready.evaluate("document.documentElement.scrollWidth") == 390
