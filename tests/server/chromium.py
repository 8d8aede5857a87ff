"""A Chromium for tests of the chat page, where there is one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")

expect.set_options(timeout=60_000)  # milliseconds: a machine that tests run beside is slow


@contextmanager
def chromium() -> Iterator[Browser]:
    """The one that playwright has installed, or the system's; the test is skipped where there is none."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else next(filter(None, map(shutil.which, NAMES)), None)
        if path is None:
            pytest.skip("no Chromium is installed: `make test-page` installs one, and so does `apt install chromium`")
        with playwright.chromium.launch(executable_path=path) as browser:
            yield browser
