import pytest

from tests.gateway.house import open_house


@pytest.fixture(scope="session")
async def house(tmp_path_factory):
    """The gateway with real services, in which only ``pictor/shapes`` is served."""
    async with open_house(tmp_path_factory.mktemp("house")) as one:
        yield one


@pytest.fixture(scope="session")
async def shop(tmp_path_factory):
    """A house in which drawing has a price."""
    folder = tmp_path_factory.mktemp("shop")
    async with open_house(folder, PICTOR_DEFAULT_PRICE="1000000") as one:
        yield one
