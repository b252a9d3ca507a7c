from tests.services.inference.worker.families.conformance import (
    GUIDANCE,
    SIZE,
    FamilyConformance,
)
from tests.services.inference.worker.tiny import save_tiny_model


class TestStableDiffusion(FamilyConformance):
    """The model of most other tests."""

    name = "stable-diffusion"

    @classmethod
    def save(cls, folder):
        save_tiny_model(folder)

    def call(self, operation, inputs):
        return sized(inputs, {"guidance_scale": GUIDANCE})


def sized(inputs, call):
    """Image-to-image takes its size from the image."""
    if not inputs.image:
        return {**call, "width": SIZE.width_px, "height": SIZE.height_px}
    call = {**call, "image": inputs.image, "strength": 1.0}
    if not inputs.mask:
        return call
    size = {"width": SIZE.width_px, "height": SIZE.height_px}
    return {**call, **size, "mask_image": inputs.mask}
