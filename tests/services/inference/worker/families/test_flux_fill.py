from tests.services.inference.worker.families.conformance import GUIDANCE, FamilyConformance
from tests.services.inference.worker.families.test_flux import flux_parts, given


class TestFluxFill(FamilyConformance):
    """Only inpaints."""

    name = "flux-fill"

    @classmethod
    def save(cls, folder):
        from diffusers import FluxFillPipeline

        # Noise, the masked picture, and the mask: a bit for each pixel of a token.
        parts = flux_parts(in_channels=64 + 64 + 256)
        FluxFillPipeline(**parts).save_pretrained(folder)

    def call(self, operation, inputs):
        return {**given(inputs), "guidance_scale": GUIDANCE}
