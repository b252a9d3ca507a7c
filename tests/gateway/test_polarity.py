"""One region, repainted through each API's convention for masks."""

import base64
import io

import pytest
from PIL import Image, ImageChops

from gateway.dialects.openai import DIALECT as OPENAI

MODEL = "pictor/shapes"
SIZE = (256, 256)
REGION = (64, 96, 192, 224)
COMMON = {"model": MODEL, "prompt": "a big green circle on a white background", "seed": 7}
STEPS = 6


def picture():
    image = Image.radial_gradient("L").convert("RGB")
    return ImageChops.add(image, Image.effect_noise(SIZE, 60).convert("RGB"))


SOURCE = picture()


def file_of(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def text_of(image):
    return base64.b64encode(file_of(image)).decode()


def white():
    """What is white is repainted."""
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, REGION)
    return mask


def holes():
    """What is transparent is repainted; there is only one colour, so that nothing is guessed."""
    mask = Image.new("RGBA", SIZE, "white")
    mask.paste((255, 255, 255, 0), REGION)
    return mask


async def by_openai(client):
    if "/v1/images/edits" not in {operation.path for operation in OPENAI.operations}:
        pytest.skip("this gateway has no route for OpenAI's edits")
    reply = await client.post(
        "/v1/images/edits",
        data={**COMMON, "steps": STEPS, "response_format": "b64_json", "size": "256x256"},
        files={"image": file_of(SOURCE), "mask": file_of(holes())},
    )
    assert reply.status_code == 200, reply.text
    return base64.b64decode(reply.json()["data"][0]["b64_json"])


async def by_nebula(client):
    images = {"image": text_of(SOURCE), "mask": text_of(white())}
    body = {**COMMON, **images, "num_steps": STEPS, "width": 256, "height": 256}
    reply = await client.post("/api/v1/images/generation", json=body)
    assert reply.status_code == 200, reply.text
    return base64.b64decode(reply.json()["data"][0]["b64_json"])


async def by_relay(client, mask=None):
    images = {"image": text_of(SOURCE), "mask": text_of(mask or white())}
    body = {**COMMON, **images, "size": "256x256", "quality": "low"}
    reply = await client.post("/v2/image/gpt-image/edit", json=body)
    assert reply.status_code == 200, reply.text
    return (await client.get(reply.json()["images"][0])).content


async def by_relay_with_holes(client):
    return await by_relay(client, holes())


@pytest.mark.parametrize("ask", [by_openai, by_nebula, by_relay, by_relay_with_holes])
async def test_the_region_is_repainted_and_nothing_else(suite, ask):
    """
    Each pixel outside is the source's to the bit, and most of those inside are not.
    """
    async with suite.client() as client:
        drawn = Image.open(io.BytesIO(await ask(client))).convert("RGB")

    assert drawn.size == SIZE
    difference = ImageChops.difference(drawn, SOURCE).convert("L").point(lambda x: 255 if x else 0)
    outside = difference.copy()
    outside.paste(0, REGION)
    assert outside.getbbox() is None
    inside = difference.crop(REGION)
    changed = inside.histogram()[255] / (inside.width * inside.height)
    assert changed > 0.9
