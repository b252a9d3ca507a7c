import inspect

import pytest

from pictor.catalog.v1 import model_pb2
from services.catalog.models import PACKAGED, read_models
from services.inference.worker.families import families, family_of
from services.inference.worker.families.family import Canvas
from services.inference.worker.notes import OPTIONAL
from tests.services.inference.worker.conftest import generation_of

CHANGING = (model_pb2.OPERATION_IMAGE_TO_IMAGE, model_pb2.OPERATION_INPAINT)


@pytest.fixture(params=sorted(families()))
def family(request):
    return families()[request.param]


@pytest.fixture
def diffusers():
    import diffusers  # imports torch

    return diffusers


def test_families_are_found_by_their_files():
    """
    A file with a FAMILY is all that a family needs.
    """
    assert {"stable-diffusion", "stable-diffusion-xl"} <= set(families())
    assert family_of("StableDiffusionXLImg2ImgPipeline").name == "stable-diffusion-xl"
    assert family_of("NoPipeline") is None


def test_no_two_families_draw_with_the_same_class():
    """
    Weights without a stated family belong to exactly one.
    """
    classes = [cls for family in families().values() for cls in {*family.pipelines.values()}]

    assert len(classes) == len(set(classes))


def test_arguments_are_those_of_the_pipelines(family, diffusers, gradient, half_mask):
    """
    Every keyword that a family makes is one that the pipeline's call takes.
    """
    for operation, name in family.pipelines.items():
        generation = generation_of(negative_prompt="grey", strength=0.5)
        canvas = Canvas(
            generation,
            operation,
            64,
            64,
            gradient() if operation in CHANGING else None,
            half_mask() if operation == model_pb2.OPERATION_INPAINT else None,
            (gradient(),) * family.max_references.get(operation, 0),
        )

        assert set(family.arguments(canvas)) <= parameters(diffusers, name)
        assert {"generator", "callback_on_step_end"} <= parameters(diffusers, name)


@pytest.mark.parametrize(
    "model", [m for m in read_models(PACKAGED) if m.family], ids=lambda m: m.name
)
def test_the_catalog_asks_of_a_family_what_it_can_do(model):
    """
    Each entry's operations are among its family's, as are its references and its sizes, and what
    the family does not use is listed as ignored.
    """
    family = families()[model.family]
    ignored = {p.parameter for p in model.parameters if p.level == p.LEVEL_IGNORED}
    references = family.max_references.get(model_pb2.OPERATION_EDIT, 0)

    assert set(model.operations) <= set(family.pipelines)
    assert model.limits.size_multiple_px % family.size_multiple_px == 0
    assert set(OPTIONAL) - {"loras", "clip_skip"} - family.uses <= ignored
    if model_pb2.OPERATION_EDIT in model.operations:
        assert model.limits.max_input_images <= references


def parameters(diffusers, name):
    return set(inspect.signature(getattr(diffusers, name).__call__).parameters)
