"""`llm-api-key`: a fresh API key, and its entry for the file of `llm-serve --api-key-file`."""

from pathlib import Path

import click

from cli import _options
from cli._errors import Command
from server import key_entry, new_key


@click.command("llm-api-key", cls=Command)
@click.argument("account")
@click.option(
    "--file", "path", type=click.Path(dir_okay=False, path_type=Path), help="Append the entry to this file of API keys."
)
@_options.version
def main(account: str, path: Path | None) -> None:
    """Make an API key for a new ACCOUNT.

    The key is shown once: the file has only its digest. Without --file the entry is printed to standard error.
    """
    key = new_key()
    entry = key_entry(account, key)
    if path is None:
        click.echo(entry, err=True)
    else:
        add_account(path, account, entry)
    click.echo(key)


def add_account(path: Path, account: str, entry: str) -> None:
    """Appends the entry of an account, to a file that its owner alone can read where it is new.

    Raises:
        ConfigError: the file is not one of API keys, or has this account.
    """
    import tomllib

    from llm_jax.atomic import atomic_file
    from llm_jax.errors import ConfigError

    text = path.read_text(encoding="utf-8") if path.exists() else ""
    try:
        accounts = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The file of API keys, {path}, cannot be read: {error}.") from None
    if account in accounts:
        raise ConfigError(f"{path} has an account {account!r}; choose another name, or add the key's digest to it.")
    with atomic_file(path) as new:
        new.touch(mode=path.stat().st_mode & 0o777 if text else 0o600)
        new.write_text(f"{text}\n{entry}" if text else entry, encoding="utf-8")


if __name__ == "__main__":
    main()
