import pytest

from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2
from pictor.inference.v1.refinement_pb2 import HiresPass, MaskTreatment, TiledPass
from services.inference.refinement import check_refinement
from services.rpc.errors import InvalidRequest

MODEL = model_pb2.Model(
    operations=[1, 2, 3],
    limits=model_pb2.Limits(
        min_side_px=64,
        max_side_px=1024,
        max_pixels=1024 * 512,
        size_multiple_px=8,
        max_step_count=50,
        max_prompt_chars=10,
    ),
)
SIZE = {"width_px": 512, "height_px": 512}
IMAGE = {"input_images": [generation_pb2.InputImage(asset="assets/0")], "operation": 2}
MASK = {**IMAGE, "mask": "assets/1", "operation": 3}


def check(model=MODEL, **fields):
    check_refinement(generation_pb2.Generation(**{**SIZE, **fields}), model)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hires": HiresPass(**SIZE, strength=0)},
        {"tiles": TiledPass(factor=4, overlap_px=64), **IMAGE},
        {"mask_treatment": MaskTreatment(fill=2, padding_px=32), **MASK},
        {"clip_skip": 12, "prompt_syntax": 2},
    ],
)
def test_what_fits_is_admitted(fields):
    """
    Each of them by itself.
    """
    check(**fields)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"hires": HiresPass(**SIZE), **IMAGE}, "hires"),
        ({"hires": HiresPass(width_px=0, height_px=512)}, "hires.width_px"),
        ({"hires": HiresPass(width_px=2048, height_px=512)}, "hires.width_px"),
        ({"hires": HiresPass(width_px=512, height_px=516)}, "hires.height_px"),
        ({"hires": HiresPass(width_px=1024, height_px=1024)}, "hires.width_px"),
        ({"hires": HiresPass(**SIZE, strength=1.1)}, "hires.strength"),
        ({"hires": HiresPass(**SIZE, strength=float("nan"))}, "hires.strength"),
        ({"hires": HiresPass(**SIZE, step_count=51)}, "hires.step_count"),
        ({"hires": HiresPass(**SIZE, prompt="x" * 11)}, "hires.prompt"),
        ({"hires": HiresPass(**SIZE, resampling=9)}, "hires.resampling"),
        ({"tiles": TiledPass()}, "tiles"),
        ({"tiles": TiledPass(), **MASK}, "tiles"),
        ({"tiles": TiledPass(factor=9), **IMAGE}, "tiles.factor"),
        ({"tiles": TiledPass(overlap_px=257), **IMAGE}, "tiles.overlap_px"),
        ({"mask_treatment": MaskTreatment(), **IMAGE}, "mask_treatment"),
        ({"mask_treatment": MaskTreatment(padding_px=-1), **MASK}, "mask_treatment.padding_px"),
        ({"mask_treatment": MaskTreatment(fill=9), **MASK}, "mask_treatment.fill"),
        ({"clip_skip": 13}, "clip_skip"),
        ({"prompt_syntax": 9}, "prompt_syntax"),
    ],
)
def test_what_does_not_fit_is_named(fields, field):
    """
    The error names the field, and the model's limit where there is one.
    """
    with pytest.raises(InvalidRequest) as error:
        check(**fields)

    assert error.value.violations[0].field == f"generation.{field}"


def test_a_hires_pass_needs_image_to_image():
    """
    A model that cannot start from an image cannot draw a second time.
    """
    model = model_pb2.Model(operations=[1], limits=MODEL.limits)
    with pytest.raises(InvalidRequest, match="draws from an image"):
        check(model, hires=HiresPass(**SIZE))
