import pytest

from services.rpc.principals import service_token
from tests.services.inference.scripted import (
    ScriptedExecutor,
    inference_in,
    neighbours,
    serve_model,
)


@pytest.fixture
async def environ(tmp_path, database_url):
    """The environment of an inference service whose neighbours run, with pictor/shapes ready."""
    settings = {"PICTOR_JOB_TIME_LIMIT": "5", "PICTOR_INFERENCE_DATABASE_URL": database_url}
    async with neighbours(tmp_path, **settings) as bound:
        token = service_token(tmp_path)
        await serve_model(bound["PICTOR_CATALOG_ADDRESS"], token, "pictor/shapes")
        yield bound


@pytest.fixture
async def service(environ):
    """An inference service whose executor does what the test says."""
    async with inference_in(environ, ScriptedExecutor()) as one:
        yield one
