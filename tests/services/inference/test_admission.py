import math

import pytest

from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2
from services.inference.admission import admit, ignored
from services.inference.stand_in import adapt
from services.rpc.errors import InvalidRequest

Generation = generation_pb2.Generation
IMAGE = generation_pb2.InputImage(asset="assets/1")


def model(**changes):
    one = model_pb2.Model(
        name="models/maker/model",
        operations=[
            model_pb2.OPERATION_TEXT_TO_IMAGE,
            model_pb2.OPERATION_IMAGE_TO_IMAGE,
            model_pb2.OPERATION_INPAINT,
        ],
        limits=model_pb2.Limits(
            max_input_images=1,
            max_prompt_chars=20,
            min_side_px=64,
            max_side_px=2048,
            max_pixels=2**20,
            size_multiple_px=16,
            max_step_count=100,
            max_image_count=4,
            max_guidance_scale=30,
        ),
        parameter_defaults=model_pb2.ParameterDefaults(
            width_px=512, height_px=512, step_count=30, guidance_scale=3.5, strength=0.8
        ),
    )
    one.MergeFrom(model_pb2.Model(**changes))
    return one


@pytest.mark.parametrize(
    ("fields", "reason", "says"),
    [
        ({"prompt": ""}, "FIELD_REQUIRED", "prompt is empty"),
        ({"prompt": "  \n"}, "FIELD_REQUIRED", "prompt is empty"),
        ({"prompt": "x" * 21}, "PROMPT_TOO_LONG", "21 characters; maker/model takes at most 20"),
        ({"negative_prompt": "x" * 21}, "PROMPT_TOO_LONG", "negative_prompt has 21"),
        ({"input_images": [IMAGE] * 2}, "INPUT_IMAGE_COUNT", "2 input images;.* takes 0 to 1"),
        ({"width_px": 700}, "FIELD_OUT_OF_RANGE", "700 is not a multiple of 16; .* 688 and 704"),
        ({"width_px": 0}, "FIELD_OUT_OF_RANGE", "width_px 0 is outside 64 to 2048"),
        ({"height_px": 4096}, "FIELD_OUT_OF_RANGE", "height_px 4096 is outside 64 to 2048"),
        (
            {"width_px": 2048, "height_px": 2048},
            "FIELD_OUT_OF_RANGE",
            "2048 x 2048 is 4194304 pixels; maker/model draws at most 1048576",
        ),
        ({"step_count": 0}, "FIELD_OUT_OF_RANGE", "step_count 0 is outside 1 to 100"),
        ({"step_count": 10**6}, "FIELD_OUT_OF_RANGE", "is outside 1 to 100"),
        ({"image_count": 10**9}, "FIELD_OUT_OF_RANGE", "is outside 1 to 4"),
        ({"image_count": -1}, "FIELD_OUT_OF_RANGE", "image_count -1 is outside 1 to 4"),
        ({"guidance_scale": math.nan}, "FIELD_OUT_OF_RANGE", "guidance_scale nan"),
        ({"guidance_scale": math.inf}, "FIELD_OUT_OF_RANGE", "guidance_scale inf"),
        ({"strength": 0.0}, "FIELD_OUT_OF_RANGE", "strength 0 is outside"),
        ({"strength": math.nan}, "FIELD_OUT_OF_RANGE", "strength nan is outside"),
        ({"preview_count": 21}, "FIELD_OUT_OF_RANGE", "preview_count 21 is outside 0 to 20"),
        ({"sampler": "Eulr"}, "FIELD_UNSUPPORTED", "'Eulr' is not known; there are Euler"),
        ({"schedule": "steep"}, "FIELD_UNSUPPORTED", "'steep' is not known"),
        (
            {"output": generation_pb2.Output(quality=0)},
            "FIELD_OUT_OF_RANGE",
            "output.quality 0 is outside 1 to 100",
        ),
        ({"prompt": "<lora:ink>"}, "FIELD_REQUIRED", "prompt is empty"),
        ({"prompt": "x <lora:ink:9>"}, "FIELD_OUT_OF_RANGE", "weight 9 of adapter 'ink'"),
        ({"operation": 77}, "FIELD_INVALID", "operation 77 is none of the enum's"),
        (
            {"output": generation_pb2.Output(format=99)},
            "FIELD_INVALID",
            "format 99 is none of the enum's",
        ),
        ({"mask": "assets/2"}, "INPUT_IMAGE_COUNT", "inpainting needs an input image"),
        (
            {"operation": model_pb2.OPERATION_INPAINT, "input_images": [IMAGE]},
            "FIELD_INVALID",
            "a mask and inpainting go together",
        ),
        (
            {"operation": model_pb2.OPERATION_EDIT, "input_images": [IMAGE]},
            "OPERATION_UNSUPPORTED",
            "does not do editing by instruction; it does text-to-image, image-to-image, inpainting",
        ),
    ],
)
def test_bad_input_is_refused_with_value_rule_and_alternatives(fields, reason, says):
    """
    Each field that breaks a rule is named, with the value and what would be right.
    """
    with pytest.raises(InvalidRequest, match=says) as error:
        admit(Generation(**{"prompt": "a circle", **fields}), model())

    assert error.value.reason == getattr(reasons, f"ERROR_REASON_{reason}")


def test_the_prompts_length_is_counted_in_characters():
    """
    A limit of 20 takes 20 characters of any alphabet.
    """
    admit(Generation(prompt="圆" * 20), model())


def test_what_is_set_wins_over_the_defaults():
    """
    A request's own values stay, and the rest comes from the model.
    """
    merged, _ = admit(Generation(prompt="x", width_px=768, guidance_scale=0), model())

    assert (merged.width_px, merged.height_px) == (768, 512)
    assert (merged.step_count, merged.guidance_scale) == (30, 0)
    assert merged.model == "models/maker/model"
    assert merged.image_count == 1


def test_a_seed_is_chosen_and_told():
    """
    Two requests without a seed get two, and a given one, 0 included, is kept.
    """
    seeds = {admit(Generation(prompt="x"), model())[0].seed for _ in range(5)}

    assert len(seeds) == 5
    assert admit(Generation(prompt="x", seed=0), model())[0].seed == 0


@pytest.mark.parametrize(
    ("fields", "operation"),
    [
        ({}, "TEXT_TO_IMAGE"),
        ({"input_images": [IMAGE]}, "IMAGE_TO_IMAGE"),
        ({"input_images": [IMAGE], "mask": "assets/2"}, "INPAINT"),
    ],
)
def test_the_inputs_choose_the_operation(fields, operation):
    """
    Nothing means text-to-image, an image image-to-image, a mask inpainting.
    """
    merged, _ = admit(Generation(prompt="x", **fields), model())

    assert merged.operation == getattr(model_pb2, f"OPERATION_{operation}")


def test_a_model_that_edits_takes_images_as_references():
    """
    Where the model edits by instruction, an image without a role is a reference.
    """
    edits = model(operations=[model_pb2.OPERATION_EDIT])

    merged, _ = admit(Generation(prompt="x", input_images=[IMAGE]), edits)
    assert merged.operation == model_pb2.OPERATION_EDIT


def test_an_image_of_an_odd_size_is_brought_to_what_the_model_draws():
    """
    The size that an input image gives is rounded down to the multiple, and the receipt says so.
    """
    size = model_pb2.Size(width_px=500, height_px=512)

    merged, notes = admit(Generation(prompt="x", input_images=[IMAGE]), model(), size)

    assert (merged.width_px, merged.height_px) == (496, 512)
    assert [(n.parameter, n.requested, n.used) for n in notes] == [("width_px", "500", "496")]


def test_what_the_model_ignores_is_on_the_receipt():
    """
    A parameter that the model's table says has no effect is noted, but only when it was sent.
    """
    table = [
        model_pb2.ParameterSupport(
            parameter="negative_prompt",
            level=model_pb2.ParameterSupport.LEVEL_IGNORED,
            reason="the model has no negative prompt",
        )
    ]

    noted = ignored(Generation(prompt="x", negative_prompt="blur"), model(parameters=table))
    silent = ignored(Generation(prompt="x"), model(parameters=table))

    assert noted[0].treatment == job_pb2.ParameterNote.TREATMENT_IGNORED
    assert noted[0].requested == "blur"
    assert not silent


def test_tags_of_adapters_become_loras():
    """
    The effective generation lists them with their weights; its prompt, whose length counts without
    them, has none.
    """
    prompt = f"{'x' * 20} <lora:ink:0.8:0.5>"
    loras = [generation_pb2.Lora(adapter="wash")]

    merged, notes = admit(Generation(prompt=prompt, loras=loras), model())

    assert merged.prompt == "x" * 20
    assert {lora.adapter: lora.weight for lora in merged.loras} == {"ink": 0.8, "wash": 1.0}
    assert [note.parameter for note in notes] == ["loras"]


def test_a_stand_in_draws_without_the_adapters_of_another_model():
    """
    They would not fit it; the receipt names them.
    """
    loras = [generation_pb2.Lora(adapter="ink", weight=1.0)]
    merged, _ = admit(Generation(prompt="x", loras=loras), model())
    adapted, notes = adapt(merged, model())

    assert not adapted.loras
    assert [(note.parameter, note.requested) for note in notes] == [("loras", "ink")]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ((512, 512), (512, 512)),
        ((4000, 3000), (1168, 880)),
        ((3000, 100), (2048, 64)),
        ((64, 4096), (64, 2048)),
    ],
)
def test_a_large_image_keeps_its_shape_within_the_models_limits(given, used):
    """
    Both sides shrink alike until area and sides are what the model draws.
    """
    size = model_pb2.Size(width_px=given[0], height_px=given[1])

    merged, _ = admit(Generation(prompt="x", input_images=[IMAGE]), model(), size)

    assert (merged.width_px, merged.height_px) == used


@pytest.mark.parametrize(
    ("given", "fields", "used"),
    [
        ((1600, 900), {}, (672, 384)),
        ((90, 160), {}, (384, 672)),
        ((512, 512), {}, (512, 512)),
        ((1600, 900), {"width_px": 512, "height_px": 512}, (512, 512)),
        ((1600, 900), {"width_px": 768}, (768, 512)),
    ],
)
def test_an_edit_may_have_the_shape_of_its_first_image(given, fields, used):
    """
    Of the model's own area, if that is wanted; a size that is asked for stays.
    """
    edits = model(operations=[model_pb2.OPERATION_EDIT])
    size = model_pb2.Size(width_px=given[0], height_px=given[1])

    wanted = Generation(prompt="x", input_images=[IMAGE], **fields)
    without, _ = admit(wanted, edits, size)
    wanted.shape_from_image = True
    merged, _ = admit(wanted, edits, size)

    assert (merged.width_px, merged.height_px) == used
    assert without.height_px == 512


@pytest.mark.parametrize(
    ("fields", "used"),
    [
        ({"strength": 0.1, "step_count": 3}, 1 / 3),
        ({"strength": 0.5, "step_count": 1}, 1.0),
        ({"strength": 0.5, "step_count": 2}, None),
        ({"strength": 0.5}, None),
    ],
)
def test_a_strength_that_leaves_no_step_is_raised_before_the_device(fields, used):
    """
    So who wants everything honoured is refused, and nothing is queued.
    """
    asked = Generation(prompt="x", input_images=[IMAGE], **fields)
    merged, notes = admit(asked, model())

    clamped = [note for note in notes if note.parameter == "strength"]
    assert [note.treatment for note in clamped] == [job_pb2.ParameterNote.TREATMENT_CLAMPED] * (
        used is not None
    )
    assert merged.strength == pytest.approx(used or fields["strength"], abs=1e-5)
