from tests.services.inference.worker.families.conformance import GUIDANCE, FamilyConformance
from tests.services.inference.worker.families.test_flux import given


def qwen_parts():
    """The parts of a tiny Qwen-Image."""
    from diffusers import QwenImageTransformer2DModel

    from tests.services.inference.worker.families import parts

    tokenizer = parts.qwen_tokenizer()
    return {
        "scheduler": parts.scheduler(),
        "vae": parts.qwen_vae(),
        "text_encoder": parts.qwen_vl(tokenizer),
        "tokenizer": tokenizer,
        "transformer": QwenImageTransformer2DModel(
            in_channels=64,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=parts.WIDTH,
            axes_dims_rope=(4, 6, 6),
        ),
    }


def guided(inputs):
    """Guidance is computed from a second pass, for which an empty prompt must be given."""
    return {**given(inputs), "true_cfg_scale": GUIDANCE, "negative_prompt": " "}


class TestQwenImage(FamilyConformance):
    """Guidance is computed."""

    name = "qwen-image"

    @classmethod
    def save(cls, folder):
        from diffusers import QwenImagePipeline

        QwenImagePipeline(**qwen_parts()).save_pretrained(folder)

    def call(self, operation, inputs):
        return guided(inputs)

    def test_guidance_and_negative_prompt_change_the_picture(self, draw):
        """
        Both are used, guidance also without a negative prompt.
        """
        asked = ({}, {"guidance_scale": 1.0}, {"negative_prompt": "grey"})

        assert len({draw(**fields).images[0].tobytes() for fields in asked}) == 3
