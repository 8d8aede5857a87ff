"""A place to run a document's code in."""

from collections.abc import Iterator

import pytest

from tests.docs.workplace import Workplace, free_port


@pytest.fixture(scope="module")
def workplace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """One place per document (the parameter): what a block leaves behind, the next one finds."""
    with Workplace(tmp_path_factory.mktemp("docs") / request.param, free_port()) as place:
        yield place
