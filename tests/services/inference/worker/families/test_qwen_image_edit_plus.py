import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.qwen_image_edit import read_processor
from services.inference.worker.inputs import Inputs
from tests.services.inference.worker.families.conformance import SIZE, FamilyConformance
from tests.services.inference.worker.families.test_qwen_image import guided
from tests.services.inference.worker.families.test_qwen_image_edit import save_edit


class TestQwenImageEditPlus(FamilyConformance):
    """Edits several pictures."""

    name = "qwen-image-edit-plus"

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        """What the model looks at has a megapixel; in these tests a few tokens."""
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

        monkeypatch.setattr(module, "calculate_dimensions", lambda *_: (64, 48))

    @classmethod
    def save(cls, folder):
        from diffusers import QwenImageEditPlusPipeline

        save_edit(QwenImageEditPlusPipeline, folder)

    def bare(self, folder, operation):
        pipeline = super().bare(folder, operation, processor=None)
        pipeline.processor = read_processor(folder / "processor")
        return pipeline

    def call(self, operation, inputs):
        return {**guided(inputs), "image": list(inputs.references)}

    def test_every_reference_is_looked_at(self, draw, gradient):
        """
        A second picture changes the result.
        """
        one, other = gradient(*SIZE), gradient(*SIZE).rotate(180)
        pictures = {
            draw(Inputs(references=given), operation=model_pb2.OPERATION_EDIT).images[0].tobytes()
            for given in ((one,), (one, other), (other, one))
        }

        assert len(pictures) == 3
