import io

import numpy as np
import pytest
from PIL import Image

from pictor.inference.v1 import generation_pb2
from services.inference.worker.encode import encode, png
from services.inference.worker.infotext import infotext
from tests.services.inference.worker.conftest import generation_of

Output = generation_pb2.Output
PARAMETERS = "a cat\nSteps: 4, Sampler: Euler, CFG scale: 4"


def opened(content):
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (256, 200)])
def test_png_keeps_every_pixel(gradient, size):
    """
    What is written is what is read.
    """
    picture = gradient(*size)

    assert opened(png(picture)).convert("RGB").tobytes() == picture.tobytes()


def test_png_is_hardly_larger_than_pillows(gradient):
    """
    The fast way costs at most a tenth of the size on a picture with grain.
    """
    noise = np.random.default_rng(0).integers(0, 24, (256, 256, 3))
    picture = Image.fromarray((np.asarray(gradient(256, 256)) // 2 + noise).astype(np.uint8))
    slow = io.BytesIO()
    picture.save(slow, "PNG")

    assert len(png(picture)) <= 1.1 * len(slow.getvalue())


@pytest.mark.parametrize("text", [PARAMETERS, "ein Kätzchen", "猫, a cat"])
def test_png_carries_the_parameters(gradient, text):
    """
    The text chunk `parameters` holds them, in Latin letters and in all others.
    """
    image = encode(gradient(), Output(), text)

    assert image.media_type == "image/png"
    assert opened(image.content).text == {"parameters": text}


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_jpeg_and_webp_carry_the_parameters(gradient, form):
    """
    The EXIF user comment holds them, as AUTOMATIC1111 writes it.
    """
    output = Output(format=f"FORMAT_{form}", quality=80)
    image = encode(gradient(), output, "猫, a cat")
    comment = opened(image.content).getexif().get_ifd(0x8769)[0x9286]

    assert image.media_type == f"image/{form.lower()}"
    assert opened(image.content).format == form
    assert comment == b"UNICODE\0" + "猫, a cat".encode("utf-16-be")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_same_picture_gives_the_same_bytes(gradient, form):
    """
    Files hold no time, and nothing when the parameters are omitted.
    """
    output = Output(format=f"FORMAT_{form}")
    one, two = (encode(gradient(), output, "").content for _ in range(2))

    assert one == two
    assert not opened(one).getexif()
    assert "parameters" not in opened(one).info


def test_quality_makes_files_smaller(gradient):
    """
    A lower quality is a smaller file; a prompt of any length fits.
    """
    high, low = (
        encode(gradient(), Output(format=Output.FORMAT_JPEG, quality=q), "x" * 100_000).content
        for q in (95, 20)
    )

    assert len(low) < len(high)


def test_infotext_is_read_by_others():
    """
    The prompt, then the negative prompt, then one line of parameters in AUTOMATIC1111's order.
    """
    generation = generation_of(
        prompt="a cat,\non a mat",
        negative_prompt="dogs",
        step_count=20,
        guidance_scale=7.0,
        schedule="karras",
        model="models/a/b:c",
        strength=0.75,
        input_images=[generation_pb2.InputImage(asset="assets/1")],
        loras=[generation_pb2.Lora(adapter="ink", weight=0.8)],
    )
    text = infotext(generation, seed=5, sampler="DPM++ 2M", size="64x48")

    assert text == (
        "a cat,\non a mat <lora:ink:0.8>\n"
        "Negative prompt: dogs\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 5,"
        ' Size: 64x48, Model: "a/b:c", Denoising strength: 0.75, Version: Pictor'
    )
