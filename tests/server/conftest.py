from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.server.live import Server, running
from tests.server.tiny import save_reciter


@pytest.fixture(scope="session")
def reciter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the model that recites."""
    return save_reciter(tmp_path_factory.mktemp("models") / "reciter")


@pytest.fixture(scope="session")
def server(reciter: Path) -> Iterator[Server]:
    """One server for all tests that only ask it things."""
    with running(model_path=reciter) as server:
        yield server


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client
