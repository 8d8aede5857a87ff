"""`llm-generate --chat`: one answer in a pipe, a conversation on a terminal."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from click.testing import Result

from cli.generate import main
from llm_jax.checkpoint import load_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.inference import SamplingParams, generate
from llm_jax.inference.chat import Conversation
from llm_jax.inference.text import ContextLengthExceeded
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer, render_chat

Call = Callable[..., Result]
ALPHABET = "UserAitanSym:\n abcdefghijklmnopqrstuvwxyz.?'\\"
TIMEOUT = 60


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer knows the default chat format."""
    tokenizer = CharacterTokenizer([ALPHABET])
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=128,
        positions="rotary",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "talker"
    save_model(path, Model.init(config, seed=3), tokenizer)
    return path


def conversation(talker: Path, system: str | None = None, count: int = 6) -> Conversation:
    loaded = load_model(talker)
    assert loaded.tokenizer is not None
    sampling = SamplingParams(max_new_tokens=count, temperature=0.0)
    return Conversation(loaded.model, loaded.tokenizer, sampling, system=system)


def said(chat: Conversation, message: str) -> str:
    return "".join(piece.text for piece in chat.answer(message))


def test_an_answer_continues_the_rendered_messages(talker: Path) -> None:
    loaded = load_model(talker)
    assert loaded.tokenizer is not None
    chat = conversation(talker, system="be kind")
    messages = [{"role": "system", "content": "be kind"}]
    for message in ("hi there", "who are you?"):
        messages.append({"role": "user", "content": message})
        prompt = render_chat(loaded.tokenizer, messages)
        expected = generate(loaded.model, loaded.tokenizer, prompt, 6, temperature=0.0, stop="\nUser:")
        messages.append({"role": "assistant", "content": expected.removeprefix(prompt).removeprefix(" ")})
        assert said(chat, message) == messages[-1]["content"]
    assert chat.messages == messages


def test_the_oldest_turns_are_forgotten_and_the_system_message_is_not(talker: Path) -> None:
    chat = conversation(talker, system="be kind")
    for number in range(8):
        said(chat, f"this is message {'abcdefgh'[number]}")
    assert chat.messages[0] == {"role": "system", "content": "be kind"}
    assert [m["content"] for m in chat.messages if m["role"] == "user"] == ["this is message g", "this is message h"]
    before = list(chat.messages)
    with pytest.raises(ContextLengthExceeded, match="Shorten it"):
        said(chat, "a" * 200)
    assert chat.messages[0] == before[0]


def test_an_answer_that_is_broken_off_is_remembered_so_far(talker: Path) -> None:
    chat = conversation(talker)
    pieces = chat.answer("hi")
    text = next(piece.text for piece in pieces if piece.text)
    pieces.close()  # type: ignore[attr-defined]
    assert chat.messages[-1] == {"role": "assistant", "content": text}


def test_in_a_pipe_the_input_is_one_message(call: Call, talker: Path) -> None:
    options = ["--model", talker, "--chat", "--temperature", 0, "--max-new-tokens", 6]
    expected = said(conversation(talker), "hello\nsecond line")
    assert call(main, *options, input="hello\nsecond line\n").stdout == expected + "\n"
    assert call(main, *options, "hello\nsecond line").stdout == expected + "\n"
    answer = json.loads(call(main, *options, "--json", "hello\nsecond line").stdout)
    assert answer == {"generated_text": expected, "token_count": 6, "finish_reason": "length"}
    assert said(conversation(talker, system="be kind"), "hello") + "\n" == call(
        main, *options, "--system", "be kind", "hello"
    ).stdout  # fmt: skip


def test_mistakes_are_explained(call: Call, talker: Path) -> None:
    result = call(main, "--model", talker, "--system", "be kind", "hello")
    assert (result.exit_code, "add --chat" in result.stderr) == (2, True)


@pytest.fixture
def terminal(talker: Path) -> Iterator[Callable[..., pexpect.spawn]]:
    """`llm-generate --chat` on a real pseudo-terminal."""
    opened: list[pexpect.spawn] = []

    def open_terminal(*options: str, count: int = 6) -> pexpect.spawn:
        code = "from cli.generate import main; main()"
        arguments = ["-c", code, "--model", str(talker), "--chat", "--temperature", "0", "--max-new-tokens", str(count)]
        child = pexpect.spawn(
            sys.executable, [*arguments, *options], encoding="utf-8", timeout=TIMEOUT, echo=False, dimensions=(40, 200),
            env=os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null"},
        )  # fmt: skip
        opened.append(child)
        child.expect_exact("> ")
        return child

    yield open_terminal
    for child in opened:
        child.close(force=True)


def reply(child: pexpect.spawn) -> str:
    """What is printed before the next prompt."""
    child.expect("\r\n> ")
    return child.before.replace("\r\n", "\n")


def test_a_conversation_on_a_terminal(terminal: Callable[..., pexpect.spawn], talker: Path) -> None:
    chat = conversation(talker, system="be kind")
    child = terminal("--system", "be kind")
    child.sendline("hi there")
    assert reply(child).endswith(said(chat, "hi there"))
    child.sendline("two lines\\")
    child.expect_exact(". ")
    child.sendline("in one")
    assert reply(child).endswith(said(chat, "two lines\nin one"))
    child.sendline('"""a block')
    child.expect_exact(". ")
    child.sendline("")
    child.expect_exact(". ")
    child.sendline('of three"""')
    assert reply(child).endswith(said(chat, "a block\n\nof three"))
    child.sendline("/clear")
    child.expect_exact("> ")
    chat.clear()
    child.sendline("hi again")
    assert reply(child).endswith(said(chat, "hi again"))
    child.sendeof()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_mistakes_and_interruptions_do_not_end_it(terminal: Callable[..., pexpect.spawn]) -> None:
    child = terminal()
    child.sendline("HI")
    assert "'H'" in reply(child)
    child.send("half a line")
    child.sendintr()
    child.expect_exact("> ")
    child.sendline("/help")
    assert "Ctrl-D" in reply(child)
    child.sendline("hi")
    assert reply(child)
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_an_interrupted_answer_ends_and_the_talk_goes_on(terminal: Callable[..., pexpect.spawn]) -> None:
    child = terminal(count=110)
    child.sendline("hi")
    child.expect("[a-zA-Z]")  # the answer has begun
    child.sendintr()
    child.expect_exact("> ")
    child.sendline("/exit")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_it_needs_no_server_libraries(talker: Path) -> None:
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['torch'] = sys.modules['transformers'] = None\n"
        f"from cli.generate import main; main(['--model', {str(talker)!r}, '--chat', 'hi', '--seed', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
