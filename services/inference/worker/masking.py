"""
What is made of a mask and its picture before and after drawing.

The masked part may be filled before noise is added. A close-up draws only the surroundings of the
mask, larger, and puts what changed back into the picture; all else keeps every pixel.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from pictor.inference.v1.refinement_pb2 import MaskTreatment
from services.inference.worker.frames import Size, resized
from services.inference.worker.inputs import Inputs

GREY = (127, 127, 127)
# From far to near: colours reach in, and details win where they are close.
BLURS = ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1))

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class CloseUp:
    """
    A part of a picture.

    Attributes:
        whole: The picture.
        mask: Of the whole, 255 is repainted.
        box: The part.
    """

    whole: Image.Image
    mask: Image.Image
    box: Box

    def inputs(self, inputs: Inputs) -> Inputs:
        """Return the part instead of the whole."""
        return replace(inputs, image=self.whole.crop(self.box), mask=self.mask.crop(self.box))

    def back(self, drawn: Image.Image) -> Image.Image:
        """Put a drawn part back into the whole, where the mask permits."""
        before = self.whole.crop(self.box)
        part = resized(drawn, Size(*before.size))
        result = self.whole.copy()
        result.paste(Image.composite(part, before, self.mask.crop(self.box)), self.box)
        return result


def close_up(inputs: Inputs, padding_px: int, drawn: Size) -> CloseUp | None:
    """
    Find the part of a picture that is drawn; None if the mask repaints nothing.

    Args:
        inputs: The picture and its mask.
        padding_px: What is drawn around the mask, in pixels of the picture.
        drawn: The size in which the part is drawn; the part is widened to its proportions.
    """
    assert inputs.image is not None
    assert inputs.mask is not None
    whole = inputs.image
    mask = resized(inputs.mask, Size(*whole.size), Image.Resampling.NEAREST)
    found = mask.getbbox()
    if found is None:
        return None
    left, top = (max(0, start - padding_px) for start in found[:2])
    right, bottom = (
        min(side, end + padding_px) for side, end in zip(whole.size, found[2:], strict=True)
    )
    ratio = drawn.width_px / drawn.height_px
    width, height = right - left, bottom - top
    left, right = _widened(left, right, round(height * ratio), whole.width)
    top, bottom = _widened(top, bottom, round(width / ratio), whole.height)
    return CloseUp(whole, mask, (left, top, right, bottom))


def filled(inputs: Inputs, fill: MaskTreatment.Fill.ValueType, seed: int) -> Inputs:
    """Return the picture with its masked part filled."""
    if not (inputs.image and inputs.mask) or fill not in _FILLS:
        return inputs
    mask = resized(inputs.mask, Size(*inputs.image.size), Image.Resampling.NEAREST)
    whole = _FILLS[fill](inputs.image, mask, seed)
    return replace(inputs, image=Image.composite(whole, inputs.image, mask))


def _widened(start: int, end: int, wanted: int, side: int) -> tuple[int, int]:
    """Widen a span to both sides up to a length, within 0 to *side*."""
    length = max(end - start, min(wanted, side))
    first = min(max(0, start - (length - (end - start)) // 2), side - length)
    return first, first + length


def _surroundings(picture: Image.Image, mask: Image.Image, _seed: int) -> Image.Image:
    kept = picture.convert("RGBA")
    kept.putalpha(mask.point(lambda m: 0 if m else 255))
    # Premultiplied, so that what is masked lends no colour to what is blurred.
    kept = kept.convert("RGBa")
    result = Image.new("RGBA", picture.size, (*GREY, 255))
    for radius, times in BLURS:
        blurred = kept.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(times):
            result.alpha_composite(blurred)
    return result.convert("RGB")


def _noise(picture: Image.Image, _mask: Image.Image, seed: int) -> Image.Image:
    shape = (picture.height, picture.width, 3)
    values = np.random.default_rng(seed).normal(GREY[0], 64, shape).clip(0, 255)
    return Image.fromarray(values.astype(np.uint8))


def _nothing(picture: Image.Image, _mask: Image.Image, _seed: int) -> Image.Image:
    return Image.new("RGB", picture.size, GREY)


_FILLS = {
    MaskTreatment.FILL_SURROUNDINGS: _surroundings,
    MaskTreatment.FILL_NOISE: _noise,
    MaskTreatment.FILL_NOTHING: _nothing,
}
