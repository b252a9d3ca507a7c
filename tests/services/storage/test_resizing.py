"""ResizeImage and ConvertMask over gRPC."""

import io

import pytest
from PIL import Image, PngImagePlugin

from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import mask_convention_pb2, resampling_pb2, storage_service_pb2
from services.rpc.errors import InvalidRequest

PIECE_BYTES = 1000


def source(size=(60, 30), form="PNG", **options):
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.save(file, form, **options)
    return file.getvalue()


async def resize(storage, content, **fields):
    async def messages():
        wanted = storage_service_pb2.Resize(**fields)
        yield storage_service_pb2.ResizeImageRequest(resize=wanted)
        for start in range(0, len(content), PIECE_BYTES):
            chunk = content[start : start + PIECE_BYTES]
            yield storage_service_pb2.ResizeImageRequest(chunk=chunk)

    chunks = [message.chunk async for message in storage.ResizeImage(messages())]
    return Image.open(io.BytesIO(b"".join(chunks)))


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"factor": 2.0}, (120, 60)),
        ({"factor": 0.5}, (30, 15)),
        ({"factor": 1.0}, (60, 30)),
        ({"width_px": 40, "height_px": 40}, (40, 20)),
        ({"width_px": 40, "height_px": 40, "crop": True}, (40, 40)),
        ({"width_px": 40, "height_px": 40, "fill": True}, (40, 40)),
    ],
)
async def test_an_image_comes_back_in_another_size(suite, fields, size):
    """
    By a factor, within a size, or covering it.
    """
    assert (await resize(suite, source(), **fields)).size == size


async def test_the_resampling_is_the_one_that_was_asked_for(suite):
    """
    Each gives just the pixels that it is known for.
    """
    content = source()
    with Image.open(io.BytesIO(content)) as image:
        for ours, pillows in (
            (resampling_pb2.RESAMPLING_LANCZOS, Image.Resampling.LANCZOS),
            (resampling_pb2.RESAMPLING_NEAREST, Image.Resampling.NEAREST),
            (resampling_pb2.RESAMPLING_BICUBIC, Image.Resampling.BICUBIC),
        ):
            resized = await resize(suite, content, factor=3.0, resampling=ours)
            assert resized.tobytes() == image.resize((180, 90), pillows).tobytes()


async def test_alpha_and_parameters_are_kept(suite):
    """
    What the picture says of itself is as true of the larger one; a JPEG comes back as PNG.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20")
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(file, "PNG", pnginfo=info)
    resized = await resize(suite, file.getvalue(), factor=2.0)
    jpeg = await resize(suite, source(form="JPEG"), factor=2.0)

    assert (resized.mode, resized.getpixel((0, 0))) == ("RGBA", (255, 0, 0, 128))
    assert resized.info["parameters"] == "a cat\nSteps: 20"
    assert jpeg.format == "PNG"


async def test_a_turned_image_is_resized_as_it_is_seen(suite):
    """
    A camera's note about its position is obeyed.
    """
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = source(form="JPEG", exif=exif)

    assert (await resize(suite, turned, factor=2.0)).size == (60, 120)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"factor": 0.0}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"factor": 65.0}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"factor": float("nan")}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"width_px": 10}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"width_px": 100_000, "height_px": 100_000}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"width_px": 0, "height_px": 9, "fill": True}, reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        (
            {"width_px": 60, "height_px": 2_000_000, "fill": True},
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        ),
        ({"factor": 2.0, "fill": True}, reasons.ERROR_REASON_FIELD_INVALID),
        (
            {"width_px": 9, "height_px": 9, "crop": True, "fill": True},
            reasons.ERROR_REASON_FIELD_INVALID,
        ),
    ],
)
async def test_a_size_that_cannot_be_is_refused(suite, fields, reason):
    """
    Also one that would fill the memory.
    """
    with pytest.raises(InvalidRequest) as error:
        await resize(suite, source(), **fields)

    assert error.value.violations[0].reason == reason


@pytest.mark.parametrize("content", [b"", b"no image", source()[:70]])
async def test_what_is_no_image_is_refused(suite, content):
    """
    As an upload of it would be.
    """
    with pytest.raises(InvalidRequest) as error:
        await resize(suite, content, factor=2.0)

    assert error.value.reason == reasons.ERROR_REASON_INPUT_IMAGE_INVALID


@pytest.mark.parametrize(
    ("fields", "colours"),
    [
        # Cropped: the red and the blue ends are gone.
        ({"crop": True}, ["lime", "lime", "lime"]),
        # Filled: the whole is there, and its edge colours reach out to the new edges.
        ({"fill": True}, ["red", "lime", "blue"]),
    ],
)
async def test_a_wide_picture_is_brought_to_a_square(suite, fields, colours):
    """
    Without being distorted, at the top and at the bottom.
    """
    wide = Image.new("RGB", (48, 16), "lime")
    wide.paste("red", (0, 0, 16, 16))
    wide.paste("blue", (32, 0, 48, 16))
    file = io.BytesIO()
    wide.save(file, "PNG")
    placed = await resize(suite, file.getvalue(), width_px=48, height_px=48, **fields)

    names = {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}
    for y in (0, 47):
        assert [names[placed.getpixel((x, y))] for x in (4, 24, 43)] == colours


async def test_a_flattened_picture_lies_on_white(suite):
    """
    Nothing in it is transparent, and nothing but its pixels is left.
    """
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a cat")
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "PNG", pnginfo=info, icc_profile=b"x" * 300)
    flat = await resize(suite, file.getvalue(), factor=1.0, flatten=True)

    assert (flat.mode, flat.getpixel((0, 0)), flat.info) == ("RGB", (255, 255, 255), {})


async def convert(storage, content, **fields):
    async def messages():
        wanted = storage_service_pb2.MaskConversion(
            **{"convention": mask_convention_pb2.MASK_CONVENTION_OPAQUE, **fields}
        )
        yield storage_service_pb2.ConvertMaskRequest(conversion=wanted)
        yield storage_service_pb2.ConvertMaskRequest(chunk=content)

    chunks = [message.chunk async for message in storage.ConvertMask(messages())]
    return Image.open(io.BytesIO(b"".join(chunks)))


async def test_all_that_is_wanted_of_a_mask_reaches_the_child(suite):
    """
    Its convention, the inverse, soft edges, and its place in a size.
    """
    mask = await convert(
        suite,
        source(),
        invert=True,
        blur_x_px=1000,
        blur_y_px=1,
        width_px=9,
        height_px=7,
        fill=True,
    )
    soft = mask_convention_pb2.MASK_CONVENTION_OPAQUE_SOFT
    kept = await convert(suite, source(), convention=soft)

    assert (mask.mode, mask.size, kept.size) == ("L", (9, 7), (60, 30))
    assert mask.getpixel((4, 0)) > 128 > kept.getpixel((4, 0))


SIZE = {"width_px": 9, "height_px": 9}


@pytest.mark.parametrize(
    ("fields", "blamed", "reason"),
    [
        ({"blur_x_px": -1}, "blur_x_px", reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"blur_y_px": 1001}, "blur_y_px", reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"blur_y_px": 2**31 - 1}, "blur_y_px", reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"fill": True}, "width_px", reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"crop": True, "width_px": 9}, "height_px", reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        ({"crop": True, "width_px": -1}, "width_px", reasons.ERROR_REASON_FIELD_OUT_OF_RANGE),
        (
            {"crop": True, "width_px": 10**9, "height_px": 10**9},
            "width_px",
            reasons.ERROR_REASON_FIELD_OUT_OF_RANGE,
        ),
        ({"crop": True, "fill": True, **SIZE}, "fill", reasons.ERROR_REASON_FIELD_INVALID),
        ({"convention": 6}, "convention", reasons.ERROR_REASON_FIELD_INVALID),
    ],
)
async def test_a_conversion_that_cannot_be_is_refused(suite, fields, blamed, reason):
    """
    Negative, huge, or contradictory; the field is named.
    """
    with pytest.raises(InvalidRequest) as error:
        await convert(suite, source(), **fields)

    violation = error.value.violations[0]
    assert (violation.field.removeprefix("conversion."), violation.reason) == (blamed, reason)


@pytest.mark.parametrize("content", [b"", b"no image", source()[:70]])
async def test_what_is_no_image_is_no_mask(suite, content):
    """
    Whatever is wanted of it.
    """
    with pytest.raises(InvalidRequest) as error:
        await convert(suite, content, fill=True, **SIZE)

    assert error.value.reason == reasons.ERROR_REASON_INPUT_IMAGE_INVALID
