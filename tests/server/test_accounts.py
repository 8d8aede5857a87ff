"""Accounts: their keys in a file, and limits that say exactly when to return."""

import math
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.api_key import main as api_key
from llm_jax.errors import ConfigError
from server.access.account import Account, Limits
from server.access.digests import digest
from server.access.keys import Keys
from server.http.errors import InvalidRequest, TooManyRequests


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(account: Account, tokens: int = 1) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as caught:
        account.admit(tokens)
    return caught.value


@pytest.mark.parametrize("limits", [Limits(requests_per_minute=7), Limits(tokens_per_minute=700)])
def test_a_limit_per_minute_says_exactly_when_the_next_request_is_taken(limits: Limits) -> None:
    clock = Clock()
    account = Account("a", limits, clock)
    for _ in range(7):
        account.admit(100)
    for _ in range(20):
        error = refusal(account, 100)
        seconds = int(error.headers["Retry-After-Ms"]) / 1000
        assert int(error.headers["Retry-After"]) == math.ceil(seconds)
        assert f"{seconds:g} seconds" in str(error)
        clock.now += seconds - 0.002
        refusal(account, 100)
        clock.now += 0.002
        account.admit(100)
    assert clock.now == pytest.approx(1000 + 20 * 60 / 7, abs=0.05)  # no more than the limit, and no less


def test_a_minute_without_requests_is_one_minutes_worth_and_no_more() -> None:
    clock = Clock()
    account = Account("a", Limits(requests_per_minute=5), clock)
    clock.now += 3600
    for _ in range(5):
        account.admit(1)
    assert refusal(account).code == "requests_per_minute"


def test_tokens_that_were_not_used_are_given_back() -> None:
    account = Account("a", Limits(tokens_per_minute=100), Clock())
    end = account.admit(100)
    assert refusal(account).code == "tokens_per_minute"
    end(30)
    account.admit(70)
    refusal(account)


def test_a_request_that_no_minute_holds_is_not_told_to_return() -> None:
    with pytest.raises(InvalidRequest, match=r"101 tokens.* has 100 a minute"):
        Account("a", Limits(tokens_per_minute=100), Clock()).admit(101)


def test_a_refused_request_uses_nothing() -> None:
    account = Account("a", Limits(requests_per_minute=2, tokens_per_minute=100), Clock())
    account.admit(60)
    for _ in range(5):
        assert refusal(account, 60).code == "tokens_per_minute"
    account.admit(40)
    assert refusal(account).code == "requests_per_minute"
    assert refusal(account, 80).code == "tokens_per_minute"  # which takes longer


def test_so_many_requests_at_a_time() -> None:
    account = Account("a", Limits(concurrent=2), Clock())
    end = account.admit(1)
    account.admit(1)
    error = refusal(account)
    assert error.code == "concurrent_requests"
    assert int(error.headers["Retry-After"]) >= 1
    end(1)
    account.admit(1)


def test_what_is_left_is_said_in_openais_headers() -> None:
    clock = Clock()
    account = Account("a", Limits(requests_per_minute=60, tokens_per_minute=6000), clock)
    account.admit(1500)
    clock.now += 0.5
    assert account.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "0.500s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4550",
        "x-ratelimit-reset-tokens": "14.500s",
    }
    assert Account("b").headers() == {}


def test_no_request_comes_before_its_accounts_priority() -> None:
    account = Account("a", Limits(priority=1))
    assert [account.priority(asked) for asked in (-5, 0, 3)] == [1, 1, 3]
    assert Account("b").priority(-5) == -5


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_key_is_made_once_and_only_its_digest_is_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    names = ['the "first"', "a.b", "c\\d"]
    made = [CliRunner().invoke(api_key, [name, "--file", str(path)]).output.strip() for name in names]
    assert path.stat().st_mode & 0o777 == 0o600
    keys = Keys(path=str(path))
    accounts = [keys.find([key.encode()]) for key in made]
    assert [account.name if account else None for account in accounts] == names
    assert not any(key in path.read_text(encoding="utf-8") for key in made)
    again = CliRunner().invoke(api_key, ["a.b", "--file", str(path)])
    assert again.exit_code == 2
    assert "a.b" in again.output
    shown = CliRunner().invoke(api_key, ["alone"])
    assert tomllib.loads(shown.stderr) == {"alone": {"sha256": [digest(shown.stdout.strip())]}}


def test_a_file_that_is_read_anew_rotates_keys_and_keeps_what_was_used(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    entry = '[a]\nrequests_per_minute = {}\nsha256 = ["{}", "{}"]\n'
    keys = Keys(["own"], write(path, entry.format(3, digest("old"), digest("new"))))
    account, other = keys.find([b"old"]), keys.find([b"own"])
    assert account is keys.find([b"new"])
    assert account
    assert other is not account
    account.admit(1)
    account.admit(1)
    write(path, entry.format(2, digest("new"), digest("newer")))
    keys.reload()
    assert keys.find([b"old"]) is None
    assert keys.find([b"newer"]) is account
    assert keys.find([b"own"]) is other
    refusal(account)  # two were used of what are two now
    write(path, "not [TOML")
    with pytest.raises(ConfigError, match="cannot be read"):
        keys.reload()
    assert keys.find([b"newer"]) is account


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = 1", "'a' is no account"),
        ("[a]", "'sha256' must be a list"),
        ('[a]\nsha256 = "secret"', "must be a list"),
        ('[a]\nsha256 = ["secret"]', "64 hexadecimal digits"),
        (f'[a]\nsha256 = ["{digest("k")}"]\nrequest_per_minute = 1', "is it requests_per_minute"),
        (f'[a]\nsha256 = ["{digest("k")}"]\nconcurrent = 0', "concurrent is 0"),
        (f'[a]\nsha256 = ["{digest("k")}"]\n[b]\nsha256 = ["{digest("k").upper()}"]', "have the same key"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Keys(path=write(tmp_path / "keys.toml", text))
    assert "secret" not in str(caught.value)


def test_no_account_takes_the_name_of_a_key_that_the_settings_have(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.toml", f'["key 1"]\nsha256 = ["{digest("k")}"]')
    with pytest.raises(ConfigError, match="choose another name"):
        Keys(["own"], path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys(path=str(tmp_path / "none.toml"))
