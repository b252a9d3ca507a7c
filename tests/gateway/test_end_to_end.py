"""The shipped model, drawn with through the front door: no part of the suite is replaced."""

import io

import openai
import pytest
from PIL import Image

MODEL = "pictor/shapes"


@pytest.fixture
async def sdk(suite):
    """The openai package, as its users set it up."""
    async with openai.AsyncOpenAI(base_url=f"{suite.url}/v1", api_key=suite.api_key) as client:
        yield client


async def test_the_openai_package_draws_a_picture(suite, sdk):
    """
    A prompt goes in, a URL comes back, and under it lies a picture of the size that was asked for.
    """
    drawn = await sdk.images.generate(
        model=MODEL, prompt="a red circle", size="256x256", extra_body={"steps": 4, "seed": 7}
    )

    async with suite.client("") as anybody:
        picture = await anybody.get(drawn.data[0].url)
    assert Image.open(io.BytesIO(picture.content)).size == (256, 256)


async def test_remotegpu_draws_the_same_picture(suite, sdk):
    """
    The same request through two APIs is the same generation, to the byte.
    """
    drawn = await sdk.images.generate(
        model=MODEL, prompt="a red circle", extra_body={"steps": 4, "seed": 7}
    )
    async with suite.client() as client:
        accepted = await client.post(
            "/v1/inference/image",
            json={"model": MODEL, "prompt": "a red circle", "steps": 4, "seed": 7},
        )
        one = await client.get(drawn.data[0].url)
        other = await client.get(accepted.json()["result_url"])

    assert other.status_code == 200
    assert one.content == other.content


async def test_a_suite_with_weights_is_ready(suite):
    """
    The gateway says so as soon as a picture can be drawn.
    """
    async with suite.client("") as client:
        assert (await client.get("/readyz")).json()["ready"]
