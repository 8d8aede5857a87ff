"""API keys: which account a key belongs to. Only digests are stored, so that neither file nor memory has a key."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llm_jax.errors import ConfigError, nearest
from server.access.account import ANYBODY, Account, Limits
from server.access.digests import DIGITS, digest, is_digest


class Keys:
    """The accounts by the digests of their keys: those of the setting, which have no limits, and those of a file.

    Raises:
        ConfigError: the file cannot be read, or is not as documented.
    """

    def __init__(self, keys: Iterable[str] = (), path: str | None = None) -> None:
        self._path = None if path is None else Path(path)
        self._own = {digest(key): Account(f"key {number}") for number, key in enumerate(keys, 1)}
        self._by_digest = dict(self._own)
        self._accounts: dict[str, Account] = {}
        self.is_needed = bool(self._own) or path is not None
        self.reload()

    def find(self, offered: Iterable[bytes]) -> Account | None:
        """The account of the first of these keys that is one; looking up a digest tells nothing of the keys."""
        if not self.is_needed:
            return ANYBODY
        accounts = (self._by_digest.get(digest(key)) for key in offered)
        return next((account for account in accounts if account is not None), None)

    def reload(self) -> int:
        """Reads the file anew; returns how many accounts there are. Where it is wrong nothing changes.

        Raises:
            ConfigError: see above.
        """
        entries = {} if self._path is None else _read(self._path)
        if taken := entries.keys() & {account.name for account in self._own.values()}:
            raise ConfigError(f"{self._path}: {min(taken)!r} names a key of the settings; choose another name.")
        by_digest, accounts = dict(self._own), {}
        for name, (digests, limits) in entries.items():
            account = self._accounts.get(name)
            if account is None:
                account = Account(name, limits)
            else:
                account.change(limits)
            accounts[name] = account
            by_digest |= dict.fromkeys(digests, account)
        self._by_digest, self._accounts = by_digest, accounts
        everybody = [*self._own.values(), *accounts.values()]
        for account in everybody:
            account.is_only = len(everybody) == 1
        return len(everybody)


def _read(path: Path) -> dict[str, tuple[list[str], Limits]]:
    """For each account the digests of its keys, and its limits."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The file of API keys, {path}, cannot be read: {error}.") from None
    owner: dict[str, str] = {}
    entries = {}
    for name, entry in document.items():
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: {name!r} is no account; write [{name}], and below it its sha256 and limits.")
        entries[name] = digests, _ = _account(f"{path}, account {name!r}", entry)
        for one in digests:
            if one in owner:
                raise ConfigError(f"{path}: {owner[one]!r} and {name!r} have the same key; give each its own.")
            owner[one] = name
    return entries


def _account(place: str, entry: dict[str, Any]) -> tuple[list[str], Limits]:
    from pydantic import TypeAdapter, ValidationError

    values = {"priority": 0, **entry}
    digests = values.pop("sha256", None)
    if not isinstance(digests, list) or not all(is_digest(one) for one in digests):
        raise ConfigError(
            f"{place}: 'sha256' must be a list of digests, {DIGITS} hexadecimal digits each; `llm-api-key` writes one."
        )
    known = ("sha256", *Limits.__dataclass_fields__)
    unknown = next((field for field in values if field not in known), None)
    if unknown is not None:
        near = nearest(unknown, known, cutoff=0.5)
        raise ConfigError(f"{place}: {unknown!r} is no limit; {f'is it {near}? ' if near else ''}There are {known}.")
    try:
        return [one.lower() for one in digests], TypeAdapter(Limits).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{place}: {problem['loc'][0]} is {problem['input']!r}: {problem['msg']}.") from None
