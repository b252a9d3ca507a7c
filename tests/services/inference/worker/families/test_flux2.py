import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.inference.worker.inputs import Inputs
from services.rpc.errors import InvalidRequest
from tests.services.inference.worker.families.conformance import GUIDANCE, FamilyConformance
from tests.services.inference.worker.families.test_flux import given


def flux2_parts(*, guidance_embeds):
    """The parts of a tiny FLUX.2 without its text encoder."""
    import torch
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    from tests.services.inference.worker.families import parts

    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    # As after training: neither 0 nor 1.
    vae.bn.running_mean.copy_(torch.randn(16))
    vae.bn.running_var.copy_(torch.rand(16) + 0.5)
    return {
        "scheduler": parts.scheduler(),
        "vae": vae,
        "transformer": Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            # Three layers of the text encoder, side by side.
            joint_attention_dim=3 * parts.WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        ),
    }


class TestFlux2(FamilyConformance):
    """Edits several pictures."""

    name = "flux2"

    @classmethod
    def save(cls, folder):
        from diffusers import Flux2Pipeline
        from transformers import Mistral3Config, Mistral3ForConditionalGeneration

        from tests.services.inference.worker.families import parts

        tokenizer = parts.chat_tokenizer()
        text = {
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": parts.WIDTH,
            "intermediate_size": parts.WIDTH,
            # The pipeline takes the thirtieth.
            "num_hidden_layers": 30,
            **parts.HEADS,
        }
        vision = {
            "model_type": "pixtral",
            "hidden_size": parts.WIDTH,
            "intermediate_size": parts.WIDTH,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 64,
        }
        config = Mistral3Config(text_config=text, vision_config=vision, image_token_index=0)
        Flux2Pipeline(
            **flux2_parts(guidance_embeds=True),
            text_encoder=Mistral3ForConditionalGeneration(config),
            tokenizer=tokenizer,
        ).save_pretrained(folder)
        # As the published weights have it. The class cannot be had without torchvision.
        index = folder / "model_index.json"
        parts.rewrite(index, tokenizer=["transformers", "PixtralProcessor"])

    def bare(self, folder, operation):
        from transformers import AutoTokenizer

        pipeline = super().bare(folder, operation, tokenizer=None)
        pipeline.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        return pipeline

    def call(self, operation, inputs):
        call = {**given(inputs), "guidance_scale": GUIDANCE}
        if inputs.references:
            call["image"] = list(inputs.references)
        return call

    @pytest.mark.parametrize("size", [(640, 63), (648, 80)])
    def test_references_that_the_model_cannot_see_are_refused(self, draw, gradient, size):
        """
        The error names the size and the rule.
        """
        inputs = Inputs(references=(gradient(*size),))
        with pytest.raises(InvalidRequest) as refused:
            draw(inputs, operation=model_pb2.OPERATION_EDIT)

        assert refused.value.reason == reasons.ERROR_REASON_INPUT_IMAGE_INVALID
        assert f"{size[0]}x{size[1]}" in refused.value.message
