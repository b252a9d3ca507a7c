"""Stable Diffusion XL: the calls of Stable Diffusion, with two text encoders behind them."""

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.family import Family
from services.inference.worker.families.latents import plain
from services.inference.worker.families.stable_diffusion import DENOISER, arguments

FAMILY = Family(
    name="stable-diffusion-xl",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "StableDiffusionXLPipeline",
        model_pb2.OPERATION_IMAGE_TO_IMAGE: "StableDiffusionXLImg2ImgPipeline",
        model_pb2.OPERATION_INPAINT: "StableDiffusionXLInpaintPipeline",
    },
    size_multiple_px=8,
    arguments=arguments,
    denoiser=DENOISER,
    uses=frozenset(
        {"negative_prompt", "guidance_scale", "loras", "sampler", "schedule", "clip_skip"}
    ),
    # In float16 the decoder overflows; diffusers then computes it in float32, slowly.
    dtype="bfloat16",
    left_out=("feature_extractor", "image_encoder"),
    options={"add_watermarker": False},
    embeddings={"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    reads_attention=True,
    spatial=plain,
    tiny_decoder="taesdxl",
)
