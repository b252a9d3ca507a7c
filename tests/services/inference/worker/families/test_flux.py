import numpy as np
import pytest

from pictor.catalog.v1 import model_pb2
from tests.services.inference.worker.families.conformance import (
    GUIDANCE,
    SIZE,
    FamilyConformance,
    pixels,
)


def flux_parts(*, in_channels=64, guidance_embeds=True):
    """The parts of a tiny FLUX.1 of some kind."""
    from diffusers import FluxTransformer2DModel

    from tests.services.inference.worker.families import parts

    tokenizer, tokenizer_2 = parts.clip_tokenizer(), parts.t5_tokenizer()
    return {
        "scheduler": parts.scheduler(),
        "vae": parts.vae(),
        "text_encoder": parts.clip(tokenizer),
        "tokenizer": tokenizer,
        "text_encoder_2": parts.t5(tokenizer_2),
        "tokenizer_2": tokenizer_2,
        "transformer": FluxTransformer2DModel(
            in_channels=in_channels,
            out_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=parts.WIDTH,
            pooled_projection_dim=parts.WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        ),
    }


def given(inputs):
    """Size and pictures in the words of most pipelines."""
    call = {"width": SIZE.width_px, "height": SIZE.height_px}
    if inputs.image:
        call |= {"image": inputs.image, "strength": 1.0}
    if inputs.mask:
        call["mask_image"] = inputs.mask
    return call


class TestFluxDev(FamilyConformance):
    """Guidance is distilled, and a number of the request's."""

    name = "flux"
    guidance_embeds = True

    @classmethod
    def save(cls, folder):
        from diffusers import FluxPipeline

        FluxPipeline(**flux_parts(guidance_embeds=cls.guidance_embeds)).save_pretrained(folder)

    def call(self, operation, inputs):
        return {**given(inputs), "guidance_scale": GUIDANCE}

    def test_a_negative_prompt_is_guided_away_from(self, draw, folder, inputs_of):
        """
        Guidance is then computed from two passes, beside the one that the model is told.
        """
        operation = model_pb2.OPERATION_TEXT_TO_IMAGE
        plain, served = draw().images[0], draw(negative_prompt="grey").images[0]
        expected = self.bare_picture_with(
            folder, operation, inputs_of, negative_prompt="grey", true_cfg_scale=GUIDANCE
        )

        assert served.tobytes() != plain.tobytes()
        assert np.abs(pixels(served) - pixels(expected)).max() <= 1

    def bare_picture_with(self, folder, operation, inputs_of, **more):
        import torch

        return self.bare(folder, operation)(
            prompt="a red circle",
            num_inference_steps=3,
            generator=torch.Generator("cpu").manual_seed(7),
            **given(inputs_of(operation)),
            **more,
        ).images[0]


class TestFluxSchnell(TestFluxDev):
    """Guidance is distilled, and none of the request's."""

    guidance_embeds = False

    def call(self, operation, inputs):
        return {**given(inputs), "max_sequence_length": 256}

    def test_a_negative_prompt_is_guided_away_from(self, draw):
        """
        A model that is distilled to four steps knows no guidance of either kind.
        """
        pictures = {
            draw(**fields).images[0].tobytes()
            for fields in ({}, {"negative_prompt": "grey"}, {"guidance_scale": 9.0})
        }

        assert len(pictures) == 1


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(12, (64, 48), (3, 4)), (4096, (512, 512), (64, 64)), (8100, (1440, 1440), (90, 90))],
)
def test_tokens_lie_as_the_canvas_does(count, size, expected):
    """
    Rows and columns are found from the number of tokens and the ratio of the sides.
    """
    from services.inference.worker.families.tokens import grid
    from services.inference.worker.frames import Size

    assert grid(count, Size(*size)) == expected
