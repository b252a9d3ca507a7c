import pytest

from tests.gateway.house import open_house


@pytest.fixture(scope="session")
async def house(tmp_path_factory):
    """The gateway with real services, in which only ``pictor/shapes`` is served."""
    async with open_house(tmp_path_factory.mktemp("house")) as one:
        yield one
