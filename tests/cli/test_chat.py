"""`llm-generate --chat`: one answer in a pipe, a conversation on a terminal."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from pexpect.fdpexpect import fdspawn

from cli.generate import main
from llm_jax.checkpoint import load_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.inference import ContextLengthExceeded, Conversation, Engine, SamplingParams, generate
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer, render_chat

Call = Callable[..., Result]
ALPHABET = "UserAitanSym:\n abcdefghijklmnopqrstuvwxyz.?'\\"
TIMEOUT = 60


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few tokens' context, on disk."""
    path = tmp_path_factory.mktemp("models") / "talker"
    save_model(path, random_model(hidden_size=16, num_layers=1, max_seq_len=128), CharacterTokenizer([ALPHABET]))
    return path


def random_model(*, hidden_size: int, num_layers: int, max_seq_len: int) -> Model:
    """A model whose tokenizer knows the default chat format."""
    config = ModelConfig(
        vocab_size=CharacterTokenizer([ALPHABET]).vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=2,
        max_seq_len=max_seq_len,
        positions="rotary",
    )
    # Larger than at initialisation, so that what it answers depends on what it was told.
    return Model(config, {name: 8 * array for name, array in Model.init(config, seed=3).params.items()})


def conversation(path: Path, system: str | None = None, count: int = 6) -> Conversation:
    loaded = load_model(path)
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


def test_a_turn_computes_what_is_new_and_says_what_a_fresh_engine_says() -> None:
    tokenizer = CharacterTokenizer([ALPHABET])
    model = random_model(hidden_size=32, num_layers=2, max_seq_len=1024)
    chat = Conversation(model, tokenizer, SamplingParams(max_new_tokens=6, seed=5))
    before, hits, cached = chat.engine, 0, 0
    engines = set()
    for number in range(7):
        message = f"{'abcdefg'[number]} " * 35
        prompt = render_chat(tokenizer, [*chat.messages, {"role": "user", "content": message}])
        expected = generate(model, tokenizer, prompt, 6, seed=5, stop="\nUser:").removeprefix(prompt).removeprefix(" ")
        assert said(chat, message) == expected
        assert chat.engine is not None
        hits = hits + cached if chat.engine is before else 0  # all whole blocks of the prompt before
        assert chat.engine.stats.prefix_hits == hits
        before, cached = chat.engine, (len(prompt) - 1) // Engine.block_tokens * Engine.block_tokens
        engines.add(chat.engine)
    assert hits > 0
    assert len(engines) == 2  # it grew out of one


def test_the_oldest_turns_are_forgotten_and_the_system_message_is_not(talker: Path) -> None:
    chat = conversation(talker, system="be kind")
    for number in range(8):
        said(chat, f"this is message {'abcdefgh'[number]}")
    assert chat.messages[0] == {"role": "system", "content": "be kind"}
    assert [m["content"] for m in chat.messages if m["role"] == "user"] == ["this is message g", "this is message h"]
    before = list(chat.messages)
    with pytest.raises(ContextLengthExceeded, match="Shorten it"):
        said(chat, "a" * 200)
    assert chat.messages == before


def test_an_answer_that_is_broken_off_is_remembered_so_far(talker: Path) -> None:
    chat = conversation(talker)
    pieces = chat.answer("hi")
    text = next(piece.text for piece in pieces if piece.text)
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": text}


def test_in_a_pipe_the_input_is_one_message(call: Call, talker: Path) -> None:
    options = ["--model", talker, "--chat", "--temperature", 0, "--max-new-tokens", 6]
    expected = said(conversation(talker), "hello\nsecond line")
    assert call(main, *options, input="hello\nsecond line\n").stdout == expected + "\n"
    assert call(main, *options, "hello\nsecond line").stdout == expected + "\n"
    answer = json.loads(call(main, *options, "--json", "hello\nsecond line").stdout)
    assert answer == {"generated_text": expected, "token_count": 6, "finish_reason": "length"}
    assert (
        said(conversation(talker, system="be kind"), "hello") + "\n"
        == call(main, *options, "--system", "be kind", "hello").stdout
    )


def test_mistakes_are_explained(call: Call, talker: Path) -> None:
    result = call(main, "--model", talker, "--system", "be kind", "hello")
    assert (result.exit_code, "add --chat" in result.stderr) == (2, True)


class Terminal:
    """`llm-generate --chat` on a pseudo-terminal of its own, at its first prompt."""

    # Forking this process, as pexpect.spawn does, is not safe beside JAX's threads; so the child takes the terminal,
    # and listens to interrupts also where the suite runs in the background, which ignores them.
    CODE = (
        "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); from cli.generate import main; main()"
    )

    def __init__(self, model: Path, *options: str, count: int = 6) -> None:
        ours, theirs = pty.openpty()
        arguments = ["--model", str(model), "--chat", "--temperature", "0", "--max-new-tokens", str(count), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null"},
        )
        os.close(theirs)
        self._screen = fdspawn(ours, encoding="utf-8", timeout=TIMEOUT)
        self.expect("> ")

    def expect(self, text: str) -> str:
        """What is printed before `text`."""
        self._screen.expect_exact(text)
        return str(self._screen.before).replace("\r\n", "\n")

    def say(self, line: str) -> str:
        """Type a line; what is printed before the next prompt."""
        self._screen.sendline(line)
        return self.expect("\n> ").removesuffix("\r")

    def begin(self, line: str) -> None:
        """Type a line that does not end the message."""
        self._screen.sendline(line)
        self.expect("\n. ")

    def press(self, key: str) -> None:
        self._screen.send(key)

    def wait_for(self, pattern: str) -> None:
        self._screen.expect(pattern)

    def close(self) -> int:
        status = self.process.wait(TIMEOUT)
        self._screen.close()
        return status


CTRL_C, CTRL_D = "\x03", "\x04"


def test_a_conversation_on_a_terminal(talker: Path) -> None:
    chat = conversation(talker, system="be kind")
    terminal = Terminal(talker, "--system", "be kind")
    assert terminal.say("hi there").endswith(said(chat, "hi there"))
    terminal.begin("two lines\\")
    assert terminal.say("in one").endswith(said(chat, "two lines\nin one"))
    terminal.begin('"""a block')
    terminal.begin("")
    assert terminal.say('of three"""').endswith(said(chat, "a block\n\nof three"))
    terminal.say("/clear")
    chat.clear()
    assert terminal.say("hi again").endswith(said(chat, "hi again"))
    terminal.press(CTRL_D)
    assert terminal.close() == 0


def test_mistakes_and_interruptions_do_not_end_it(talker: Path) -> None:
    terminal = Terminal(talker)
    assert "'H'" in terminal.say("HI")
    terminal.press("half a line")
    terminal.expect("half a line")  # CPython loses an interrupt between readline's prompt and its first wait for a key
    terminal.press(CTRL_C)
    terminal.expect("> ")
    assert "Ctrl-D" in terminal.say("/help")
    assert terminal.say("hi")
    terminal.press("/exit\n")
    assert terminal.close() == 0


def test_an_interrupted_answer_ends_and_the_talk_goes_on(tmp_path: Path) -> None:
    path, count = tmp_path / "model", 8000  # seconds of writing: the interrupt comes long before its end
    save_model(path, random_model(hidden_size=64, num_layers=4, max_seq_len=8192), CharacterTokenizer([ALPHABET]))
    terminal = Terminal(path, count=count)
    answers = []
    for _ in range(2):
        terminal.press("hi\n")
        terminal.wait_for("hi\r*\n")
        terminal.wait_for("(?=[a-zA-Z])")  # the answer has begun
        terminal.press(CTRL_C)
        begun, echo, _ = terminal.expect("\n> ").partition("^C")
        assert echo
        answers.append(begun)
        terminal.say("/clear")
    terminal.press("/exit\n")
    assert terminal.close() == 0
    whole = said(conversation(path, count=100), "hi")
    whole = whole[re.search("[a-zA-Z]", whole).start() :]  # as what was waited for
    for answer in answers:
        assert answer
        assert answer[:100] == whole[: len(answer)]


def test_it_needs_no_server_libraries(talker: Path) -> None:
    code = (
        "import sys; sys.modules['starlette'] = sys.modules['torch'] = sys.modules['transformers'] = None\n"
        f"from cli.generate import main; main(['--model', {str(talker)!r}, '--chat', 'hi', '--seed', '0'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
