import inspect

import pytest

from pictor.catalog.v1 import model_pb2
from services.inference.worker.families import families, family_of
from services.inference.worker.families.family import Canvas
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


def parameters(diffusers, name):
    return set(inspect.signature(getattr(diffusers, name).__call__).parameters)
