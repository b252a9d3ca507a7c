"""Masks as public APIs take them: white is repainted, and in some of them what is transparent."""

import dataclasses

from gateway.fields import Fields
from gateway.images import InputFile, MaskRule
from pictor.storage.v1 import mask_convention_pb2 as conventions


def of(fields: Fields, name: str, *, or_transparent: bool = False) -> InputFile | None:
    """Return the mask that stands in a field, which belongs to the first of the images."""
    files = fields.files(name, urls=True)
    if len(files) > 1:
        fields.blame(name, f"{name} must be one image; it is {len(files)}")
    convention = (
        conventions.MASK_CONVENTION_WHITE_OR_TRANSPARENT
        if or_transparent
        else conventions.MASK_CONVENTION_WHITE
    )
    return dataclasses.replace(files[0], mask=MaskRule(convention)) if files else None
