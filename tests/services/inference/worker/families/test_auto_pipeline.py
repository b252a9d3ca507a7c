import pathlib

import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import family_of
from tests.services.inference.worker.families.conformance import (
    GUIDANCE,
    SIZE,
    FamilyConformance,
)
from tests.services.inference.worker.families.test_flux import given

EVERY = {
    model_pb2.OPERATION_TEXT_TO_IMAGE,
    model_pb2.OPERATION_IMAGE_TO_IMAGE,
    model_pb2.OPERATION_INPAINT,
}
NOWHERE = pathlib.Path("nowhere")


class DerivedConformance(FamilyConformance):
    """
    A family that is in no file.

    Attributes:
        pipeline: The diffusers class of its checkpoint.
    """

    pipeline: str

    @pytest.fixture(scope="class")
    @classmethod
    def family(cls, folder):
        return family_of(cls.pipeline, folder)

    def bare(self, folder, operation, **parts):
        import diffusers

        name = family_of(self.pipeline, folder).pipelines[operation]
        pipeline = getattr(diffusers, name).from_pretrained(folder, **parts)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


class TestStableDiffusion3(DerivedConformance):
    """Every operation, with a callback of its own."""

    name = "stable-diffusion-3"
    pipeline = "StableDiffusion3Pipeline"

    @classmethod
    def save(cls, folder):
        from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
        from transformers import CLIPTextModelWithProjection

        from tests.services.inference.worker.families import parts

        tokenizer, tokenizer_3 = parts.clip_tokenizer(), parts.t5_tokenizer()
        config = parts.clip_config(tokenizer)
        transformer = SD3Transformer2DModel(
            sample_size=8,
            in_channels=16,
            out_channels=16,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_projection_dim=16,
            joint_attention_dim=parts.WIDTH,
            pooled_projection_dim=2 * parts.WIDTH,
            pos_embed_max_size=32,
        )
        parts.fill_zeros(transformer)
        StableDiffusion3Pipeline(
            scheduler=parts.scheduler(use_dynamic_shifting=False, shift=3.0),
            vae=parts.vae(),
            text_encoder=CLIPTextModelWithProjection(config),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(config),
            tokenizer_2=parts.clip_tokenizer(),
            text_encoder_3=parts.t5(tokenizer_3),
            tokenizer_3=tokenizer_3,
            transformer=transformer,
        ).save_pretrained(folder)

    def call(self, operation, inputs):
        return {**given(inputs), "guidance_scale": GUIDANCE}

    def test_operations_and_sizes_are_read_from_the_pipeline(self, family):
        """
        What AutoPipeline can make of the checkpoint, and sides that its patches divide.
        """
        assert family.name == self.name
        assert set(family.pipelines) == EVERY
        assert family.size_multiple_px == 16
        assert family.uses == {"negative_prompt", "guidance_scale", "schedule"}


class TestPixArt(DerivedConformance):
    """A pipeline that tells nobody of its steps."""

    name = "pixart-sigma"
    pipeline = "PixArtSigmaPipeline"

    @classmethod
    def save(cls, folder):
        from diffusers import (
            AutoencoderKL,
            DDIMScheduler,
            PixArtSigmaPipeline,
            PixArtTransformer2DModel,
        )

        from tests.services.inference.worker.families import parts

        tokenizer = parts.t5_tokenizer()
        transformer = PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=2,
            caption_channels=parts.WIDTH,
            cross_attention_dim=16,
            out_channels=8,
        )
        parts.fill_zeros(transformer)
        PixArtSigmaPipeline(
            tokenizer=tokenizer,
            text_encoder=parts.t5(tokenizer),
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(8, 8, 8, 8),
                norm_num_groups=4,
                mid_block_add_attention=False,
            ),
            transformer=transformer,
            scheduler=DDIMScheduler(clip_sample=False),
        ).save_pretrained(folder)

    def call(self, operation, inputs):
        return {**given(inputs), "guidance_scale": GUIDANCE, "use_resolution_binning": False}

    def bare_picture(self, pipeline, operation, inputs, **more):
        # What tells of the steps is the family's.
        told = more.pop("callback_on_step_end", None)
        if told:
            from services.inference.worker.stepwise import stepwise

            pipeline.__class__ = stepwise(type(pipeline))
            more["callback_on_step_end"] = told
        return super().bare_picture(pipeline, operation, inputs, **more)

    def test_the_picture_has_the_size_that_was_asked_for(self, draw):
        """
        It is drawn at that size, not at one of the pipeline's own and cut.
        """
        drawing = draw()

        assert drawing.images[0].size == SIZE
        assert "size" not in {note.parameter for note in drawing.receipt}

    def test_a_solver_of_the_second_order_is_counted_in_steps(self, draw):
        """
        Heun takes two timesteps for each step but the last; the progress counts steps.
        """
        draw(sampler="Heun")
        told = [p.step for p in draw.er.progress if p.step_count]

        assert told[-1] == 3
        assert told == sorted(told)


@pytest.mark.parametrize(
    ("pipeline", "operations"),
    [
        ("SanaPipeline", {model_pb2.OPERATION_TEXT_TO_IMAGE}),
        ("Lumina2Pipeline", {model_pb2.OPERATION_TEXT_TO_IMAGE}),
        ("HunyuanDiTPipeline", {model_pb2.OPERATION_TEXT_TO_IMAGE}),
        ("StableDiffusionXLPAGPipeline", EVERY),
        ("StableDiffusionXLPAGInpaintPipeline", EVERY),
        ("IFPipeline", EVERY),
    ],
)
def test_a_pipeline_of_autopipeline_has_a_family(engine, pipeline, operations):
    """
    No file names it; its operations are those of AutoPipeline's maps.
    """
    family = family_of(pipeline, NOWHERE)

    assert set(family.pipelines) == operations
    assert pipeline in family.pipelines.values()


@pytest.mark.parametrize(
    "pipeline",
    [
        "StableDiffusionControlNetPipeline",
        "FluxControlPipeline",
        "HeliosPipeline",
        "KandinskyV22CombinedPipeline",
        "WanPipeline",
        "StableAudioPipeline",
        "NoPipeline",
    ],
)
def test_a_pipeline_that_a_request_cannot_feed_has_none(engine, pipeline):
    """
    Films, sounds, pictures along other pictures and chains of models are refused, not tried.
    """
    assert family_of(pipeline, NOWHERE) is None


def test_a_family_in_a_file_goes_first(engine):
    """
    What AutoPipeline knows as well is drawn by the family that was written for it.
    """
    assert family_of("FluxPipeline", NOWHERE).name == "flux"
    assert family_of("StableDiffusionPipeline", NOWHERE).name == "stable-diffusion"
