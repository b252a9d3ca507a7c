from tests.services.inference.worker.families.conformance import GUIDANCE, FamilyConformance
from tests.services.inference.worker.families.test_flux import given


class TestZImage(FamilyConformance):
    """Guidance is computed."""

    name = "z-image"

    @classmethod
    def save(cls, folder):
        from diffusers import ZImagePipeline, ZImageTransformer2DModel
        from transformers import Qwen3Model

        from tests.services.inference.worker.families import parts

        tokenizer = parts.qwen_tokenizer()
        pipeline = ZImagePipeline(
            scheduler=parts.scheduler(use_dynamic_shifting=False, shift=3.0),
            vae=parts.vae(),
            text_encoder=Qwen3Model(parts.qwen3_config(tokenizer, layers=2)),
            tokenizer=tokenizer,
            transformer=ZImageTransformer2DModel(
                dim=32,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=2,
                n_kv_heads=2,
                cap_feat_dim=parts.WIDTH,
                axes_dims=[4, 6, 6],
                axes_lens=[1024, 64, 64],
            ),
        )
        parts.fill_zeros(pipeline.transformer)
        pipeline.save_pretrained(folder)

    def call(self, operation, inputs):
        return {**given(inputs), "guidance_scale": GUIDANCE}

    def test_guidance_and_negative_prompt_change_the_picture(self, draw):
        """
        Both are used; guidance 0 leaves the second pass out, and the negative prompt with it.
        """
        asked = ({}, {"negative_prompt": "grey"}, {"guidance_scale": 0.0})
        pictures = [draw(**fields).images[0].tobytes() for fields in asked]
        unguided = draw(guidance_scale=0.0, negative_prompt="grey").images[0].tobytes()

        assert len(set(pictures)) == 3
        assert unguided == pictures[2]
