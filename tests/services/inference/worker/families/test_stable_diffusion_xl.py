from tests.services.inference.worker.families.conformance import GUIDANCE, FamilyConformance
from tests.services.inference.worker.families.test_stable_diffusion import sized


class TestStableDiffusionXL(FamilyConformance):
    """Two text encoders, and sizes as conditions."""

    name = "stable-diffusion-xl"

    @classmethod
    def save(cls, folder):
        from diffusers import (
            AutoencoderKL,
            EulerDiscreteScheduler,
            StableDiffusionXLPipeline,
            UNet2DConditionModel,
        )
        from transformers import CLIPTextModelWithProjection

        from tests.services.inference.worker.families import parts

        tokenizer = parts.clip_tokenizer()
        StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                norm_num_groups=4,
                mid_block_add_attention=False,
                scaling_factor=0.13025,
            ),
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=2 * parts.WIDTH,
                attention_head_dim=2,
                norm_num_groups=4,
                addition_embed_type="text_time",
                addition_time_embed_dim=4,
                # Six numbers of the size, and the second encoder's summary.
                projection_class_embeddings_input_dim=6 * 4 + parts.WIDTH,
            ),
            text_encoder=parts.clip(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(parts.clip_config(tokenizer)),
            tokenizer_2=parts.clip_tokenizer(),
            scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear"),
        ).save_pretrained(folder)

    def call(self, operation, inputs):
        return sized(inputs, {"guidance_scale": GUIDANCE})
