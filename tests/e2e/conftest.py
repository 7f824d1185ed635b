"""The suite of its own that outages are tried on: nothing else of a run notices them."""

from collections.abc import Iterator

import pytest
from tests.e2e.fragile import Fragile, start_fragile


@pytest.fixture(scope="package")
def fragile(request: pytest.FixtureRequest) -> Iterator[Fragile]:
    with start_fragile(request.config.rootpath) as running:
        yield running
