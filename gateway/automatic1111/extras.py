"""Enlarging without drawing, and what a picture says of itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway import schemas
from gateway.automatic1111 import names, options
from gateway.automatic1111.infotext import PARAMETERS, carried_by, parse
from gateway.automatic1111.parameters import image, integer, number, read, switch, text, things
from gateway.dialect import Answer, Call, Resizing
from gateway.fields import Fields
from gateway.images import InputFile
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.storage.v1 import storage_service_pb2
from pictor.storage.v1.image_description_pb2 import DescribeImageResponse
from services.rpc.errors import NotFound

MAX_BATCH = 100
BASE = {
    "resize_mode": integer(0, 0, 1),
    "show_extras_results": switch(True),
    "gfpgan_visibility": number(0, 0, 1, without_effect=()),
    "codeformer_visibility": number(0, 0, 1, without_effect=()),
    "codeformer_weight": number(0, 0, 1),
    "upscaling_resize": number(2, 0.001, 64),
    "upscaling_resize_w": integer(512, 1, 16_384),
    "upscaling_resize_h": integer(512, 1, 16_384),
    "upscaling_crop": switch(True),
    "upscaler_1": text("None"),
    "upscaler_2": text("None"),
    "extras_upscaler_2_visibility": number(0, 0, 1, without_effect=()),
    "upscale_first": switch(),
}
SINGLE = {**BASE, "image": image()}
BATCH = {**BASE, "imageList": things(list, [])}
PNG_INFO = {"image": image()}
INTERROGATE = {"image": image(), "model": text("clip")}

_SAID = {"html_info": schemas.text("What was done, as HTML.")}
_PNG = schemas.text(contentEncoding="base64")
SINGLE_REPLY = schemas.answered({**_SAID, "image": _PNG})
BATCH_REPLY = schemas.answered({**_SAID, "images": schemas.listed(_PNG)})
PNG_INFO_REPLY = schemas.answered(
    {
        "info": schemas.text("The infotext; empty where the picture carries none."),
        "items": schemas.record({}, about="Its other texts, by name."),
        "parameters": schemas.record({}, about="The infotext's values, by name."),
    }
)
CAPTION_REPLY = schemas.answered({"caption": schemas.text()})


def decode_single(call: Call) -> list[Resizing]:
    """
    Read POST extra-single-image.

    Raises:
        NotFound: If there is no image.
    """
    values = _values(call, SINGLE)
    if not values["image"]:
        raise NotFound("Image not found", reason=reasons.ERROR_REASON_ASSET_NOT_FOUND)
    return [Resizing(_file(call, "image", values["image"]), _steps(values))]


def decode_batch(call: Call) -> list[Resizing]:
    """Read POST extra-batch-images."""
    values = _values(call, BATCH)
    fields = Fields(values)
    pictures = values["imageList"]
    if len(pictures) > MAX_BATCH:
        fields.blame(
            "imageList", f"imageList has {len(pictures)} images; at most {MAX_BATCH} may be"
        )
    sources: list[str] = []
    for index, entry in enumerate(pictures[:MAX_BATCH]):
        data = entry.get("data") if isinstance(entry, dict) else None
        if isinstance(data, str):
            sources.append(data)
        else:
            field = f"imageList.{index}.data"
            fields.blame(field, f"{field} must be an image in base64")
    fields.check()
    return [
        Resizing(_file(call, f"imageList.{index}.data", source), _steps(values))
        for index, source in enumerate(sources)
    ]


def encode_single(call: Call, pictures: Sequence[str]) -> Answer:
    """Write the enlarged image."""
    return Answer({"html_info": _said(call, SINGLE), "image": pictures[0]})


def encode_batch(call: Call, pictures: Sequence[str]) -> Answer:
    """Write the enlarged images."""
    return Answer({"html_info": _said(call, BATCH), "images": list(pictures)})


def decode_png_info(call: Call) -> InputFile:
    """
    Read POST png-info.

    Raises:
        NotFound: If there is no image.
    """
    return _described(_values(call, PNG_INFO))


def encode_png_info(_: Call, description: DescribeImageResponse) -> Answer:
    """Write what a picture says of itself; a picture that says nothing is fine too."""
    said = carried_by(description)
    items = {one.name: one.text for one in description.texts if one.name != PARAMETERS}
    return Answer({"info": said, "items": items, "parameters": parse(said)})


def decode_interrogate(call: Call) -> InputFile:
    """
    Read POST interrogate.

    Raises:
        NotFound: If there is no image, or the model is none of the two that AUTOMATIC1111 has.
    """
    values = _values(call, INTERROGATE)
    file = _described(values)
    if values["model"] not in ("clip", "deepdanbooru"):
        raise NotFound("Model not found", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND)
    return file


def encode_interrogate(call: Call, description: DescribeImageResponse) -> Answer:
    """
    Write the prompt that a picture carries: nothing here looks at pictures and describes them.

    Raises:
        NotFound: If it carries no prompt.
    """
    if prompt := parse(carried_by(description)).get("Prompt"):
        return Answer({"caption": prompt})
    model = _values(call, INTERROGATE)["model"]
    raise NotFound(
        f"Model not found: {model} is not installed on this server, and the picture"
        " carries no prompt that could be told instead",
        reason=reasons.ERROR_REASON_MODEL_NOT_FOUND,
    )


def _described(values: Mapping[str, Any]) -> InputFile:
    """Return the image that is to be described; it is none that storage would fetch."""
    if not (values["image"] or "").strip():
        raise NotFound("Image not found", reason=reasons.ERROR_REASON_ASSET_NOT_FOUND)
    return InputFile("image", values["image"])


def _file(call: Call, field: str, source: str) -> InputFile:
    chosen = options.current(call.found.choices, call.found, call.preferences)
    return InputFile(field, source, may_be_url=options.takes_urls(chosen))


def _values(call: Call, table: Mapping[str, Any]) -> dict[str, Any]:
    fields, values = read(call.body, table)
    fields.check()
    return values


def _steps(values: Mapping[str, Any]) -> list[storage_service_pb2.Resize]:
    resampling, _ = names.upscaler_of(values["upscaler_1"], "upscaler_1")
    if resampling is None:
        return []
    if values["resize_mode"] == 0:
        factor = values["upscaling_resize"]
        return [storage_service_pb2.Resize(factor=factor, resampling=resampling)]
    resize = storage_service_pb2.Resize(
        width_px=values["upscaling_resize_w"],
        height_px=values["upscaling_resize_h"],
        crop=values["upscaling_crop"],
        resampling=resampling,
    )
    return [resize]


def _said(call: Call, table: Mapping[str, Any]) -> str:
    values = _values(call, table)
    lines = []
    resampling, notes = names.upscaler_of(values["upscaler_1"], "upscaler_1")
    if resampling is not None:
        lines.append(f"Postprocess upscaler: {names.RESAMPLING_NAMES[resampling]}")
    lines += [f"{note.parameter} {note.requested}: {note.reason}" for note in notes]
    if values["gfpgan_visibility"] or values["codeformer_visibility"]:
        lines.append("faces were not restored: no model for it is installed")
    if values["extras_upscaler_2_visibility"] and values["upscaler_2"] != "None":
        lines.append("upscaler_2 had no effect")
    return "".join(f"<p>{_escaped(line)}</p>" for line in lines)


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
