import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.qwen_image_edit import read_processor
from tests.services.inference.worker.families.conformance import FamilyConformance
from tests.services.inference.worker.families.test_qwen_image import guided, qwen_parts


def edit_parts(folder):
    """The parts of a tiny Qwen-Image-Edit. Its processor is made without torchvision."""
    from transformers import Qwen2VLImageProcessorPil

    parts = qwen_parts()
    Qwen2VLImageProcessorPil(min_pixels=28**2, max_pixels=56**2).save_pretrained(folder)
    parts["tokenizer"].save_pretrained(folder)
    return {**parts, "processor": read_processor(folder)}


def save_edit(cls, folder):
    """Save a tiny checkpoint, as the published weights have it."""
    from tests.services.inference.worker.families import parts

    cls(**edit_parts(folder / "processor")).save_pretrained(folder)
    parts.rewrite(folder / "model_index.json", processor=["transformers", "Qwen2VLProcessor"])


class TestQwenImageEdit(FamilyConformance):
    """Edits one picture, and inpaints."""

    name = "qwen-image-edit"

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        """What the model looks at has a megapixel; in these tests a few tokens."""
        from diffusers.pipelines.qwenimage import (
            pipeline_qwenimage_edit,
            pipeline_qwenimage_edit_inpaint,
        )

        for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_inpaint):
            monkeypatch.setattr(module, "calculate_dimensions", lambda *_: (128, 96, None))

    @classmethod
    def save(cls, folder):
        from diffusers import QwenImageEditPipeline

        save_edit(QwenImageEditPipeline, folder)

    def bare(self, folder, operation):
        pipeline = super().bare(folder, operation, processor=None)
        pipeline.processor = read_processor(folder / "processor")
        return pipeline

    def call(self, operation, inputs):
        call = guided(inputs)
        if inputs.references:
            call["image"] = inputs.references[0]
        return call

    def test_a_size_of_the_models_own_is_noted(self, draw, inputs_of):
        """
        Inpainting has a size of its own; the receipt tells it.
        """
        operation = model_pb2.OPERATION_INPAINT
        (note,) = draw(inputs_of(operation), operation=operation, strength=1.0).receipt

        assert (note.parameter, note.requested, note.used) == ("size", "64x48", "128x96")
