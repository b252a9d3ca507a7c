from pictor.catalog.v1 import model_pb2
from services.inference.worker.inputs import Inputs
from tests.services.inference.worker.families.conformance import GUIDANCE, FamilyConformance
from tests.services.inference.worker.families.test_flux import given
from tests.services.inference.worker.families.test_flux2 import flux2_parts


class TestFlux2Klein(FamilyConformance):
    """Edits and inpaints, with guidance computed."""

    name = "flux2-klein"
    is_distilled = False

    @classmethod
    def save(cls, folder):
        from diffusers import Flux2KleinPipeline
        from transformers import Qwen3ForCausalLM

        from tests.services.inference.worker.families import parts

        tokenizer = parts.qwen_tokenizer()
        Flux2KleinPipeline(
            **flux2_parts(guidance_embeds=False),
            # The pipeline takes the twenty-seventh layer.
            text_encoder=Qwen3ForCausalLM(parts.qwen3_config(tokenizer, layers=27)),
            tokenizer=tokenizer,
            is_distilled=cls.is_distilled,
        ).save_pretrained(folder)

    def call(self, operation, inputs):
        call = {**given(inputs), "guidance_scale": GUIDANCE}
        if inputs.references:
            call["image"] = list(inputs.references)
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


class TestFlux2KleinDistilled(TestFlux2Klein):
    """Edits and inpaints without guidance."""

    is_distilled = True

    def test_guidance_has_no_effect(self, draw):
        """
        The checkpoint says that it is distilled, and nothing of what it says is lost.
        """
        assert draw().images[0].tobytes() == draw(guidance_scale=9.0).images[0].tobytes()
