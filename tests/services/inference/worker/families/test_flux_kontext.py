import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.family import Canvas
from services.inference.worker.families.flux_kontext import arguments
from services.inference.worker.inputs import Inputs
from tests.services.inference.worker.conftest import generation_of
from tests.services.inference.worker.families.conformance import (
    GUIDANCE,
    SIZE,
    FamilyConformance,
)
from tests.services.inference.worker.families.test_flux import flux_parts, given


class TestFluxKontext(FamilyConformance):
    """Edits one picture, and inpaints."""

    name = "flux-kontext"

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        """What the model looks at has a megapixel; in these tests a few tokens."""
        from diffusers.pipelines.flux import pipeline_flux_kontext

        monkeypatch.setattr(pipeline_flux_kontext, "PREFERRED_KONTEXT_RESOLUTIONS", [(64, 64)])

    @classmethod
    def save(cls, folder):
        from diffusers import FluxKontextPipeline

        FluxKontextPipeline(**flux_parts()).save_pretrained(folder)

    def call(self, operation, inputs):
        call = {**given(inputs), "guidance_scale": GUIDANCE}
        call["max_area"] = SIZE.width_px * SIZE.height_px
        if inputs.image:
            call["_auto_resize"] = False
        if inputs.references:
            call["image"] = inputs.references[0]
        return call

    def test_inpainting_looks_at_a_reference(self, draw, gradient, inputs_of):
        """
        A picture beside the one that is changed has its effect, however large it is.
        """
        operation = model_pb2.OPERATION_INPAINT
        given = inputs_of(operation)
        pictures = {
            draw(Inputs(given.image, given.mask, references), operation=operation)
            .images[0]
            .tobytes()
            for references in ((), (gradient(64, 64),), (gradient(96, 64).rotate(180),))
        }

        assert len(pictures) == 3


def test_a_large_reference_is_reduced(gradient, half_mask):
    """
    What the model looks at while it inpaints has at most a megapixel, in its own ratio.
    """
    canvas = Canvas(
        generation_of(),
        model_pb2.OPERATION_INPAINT,
        64,
        64,
        gradient(),
        half_mask(),
        (gradient(4096, 1024),),
    )

    assert arguments(canvas)["image_reference"].size == (2048, 512)
