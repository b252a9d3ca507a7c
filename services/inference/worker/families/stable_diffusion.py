"""Stable Diffusion 1 and 2, and every model in the format of their pipelines."""

from typing import Any

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families.family import Canvas, Denoiser, Family
from services.inference.worker.families.latents import plain

DENOISER = Denoiser("unet")


def arguments(canvas: Canvas) -> dict[str, Any]:
    """Say in the pipelines' words what to draw; image-to-image takes its size from the image."""
    generation = canvas.generation
    call: dict[str, Any] = {
        "prompt": generation.prompt,
        "negative_prompt": generation.negative_prompt or None,
    }
    if generation.HasField("step_count"):
        call["num_inference_steps"] = generation.step_count
    if generation.HasField("guidance_scale"):
        call["guidance_scale"] = generation.guidance_scale
    if generation.clip_skip > 1:
        # diffusers counts the layers that are left out.
        call["clip_skip"] = generation.clip_skip - 1
    if canvas.operation != model_pb2.OPERATION_IMAGE_TO_IMAGE:
        call |= {"width": canvas.width_px, "height": canvas.height_px}
    if canvas.image:
        call["image"] = canvas.image
        if generation.HasField("strength"):
            call["strength"] = generation.strength
    if canvas.mask:
        call["mask_image"] = canvas.mask
    return call


FAMILY = Family(
    name="stable-diffusion",
    pipelines={
        model_pb2.OPERATION_TEXT_TO_IMAGE: "StableDiffusionPipeline",
        model_pb2.OPERATION_IMAGE_TO_IMAGE: "StableDiffusionImg2ImgPipeline",
        model_pb2.OPERATION_INPAINT: "StableDiffusionInpaintPipeline",
    },
    size_multiple_px=8,
    arguments=arguments,
    denoiser=DENOISER,
    uses=frozenset(
        {"negative_prompt", "guidance_scale", "loras", "sampler", "schedule", "clip_skip"}
    ),
    dtype="float16",
    left_out=("safety_checker", "feature_extractor", "image_encoder"),
    options={"requires_safety_checker": False},
    embeddings={"text_encoder": ""},
    reads_attention=True,
    spatial=plain,
    tiny_decoder="taesd",
)
