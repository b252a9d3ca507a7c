"""The AUTOMATIC1111 dialect: what is decoded, how errors look, and how its clients are answered."""

import asyncio
import base64
import io
import json
import time
from typing import ClassVar

import pytest
from PIL import Image, PngImagePlugin
from PIL.ExifTags import IFD

from gateway.automatic1111.drawing import decode_img2img, decode_txt2img, fit
from gateway.automatic1111.infotext import parse
from gateway.dialect import Call, Found, Preferences
from gateway.dialects.automatic1111 import DIALECT
from pictor.catalog.v1 import catalog_service_pb2_grpc, model_pb2, serving_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2, sampler_pb2
from pictor.inference.v1.refinement_pb2 import MaskTreatment
from pictor.storage.v1 import resampling_pb2, storage_service_pb2
from pictor.storage.v1.mask_convention_pb2 import (
    MASK_CONVENTION_OPAQUE,
    MASK_CONVENTION_OPAQUE_SOFT,
)
from pictor.storage.v1.storage_service_pb2_grpc import StorageServiceStub
from pictor.worker.v1 import worker_pb2
from services.rpc.channels import open_channel
from services.rpc.errors import Internal, InvalidRequest, NotFound, to_status
from services.rpc.principals import service_token
from tests.gateway.dialect_conformance import DialectConformance
from tests.gateway.house import SERVED, open_house, png_base64

ROOT, RELAY = "/sdapi/v1", "/v2/automatic1111/sdapi/v1"
SMALL = {"width": 64, "height": 64}
GOOD = {"prompt": "a red circle", **SMALL}
MODELS = [
    model_pb2.Model(name="models/stabilityai/stable-diffusion-xl-base-1.0", aliases=["sdxl"]),
    model_pb2.Model(name=f"models/{SERVED}", aliases=["shapes"], operations=[1, 2, 3]),
    model_pb2.Model(name="models/Realistic_Vision_V5.1.safetensors"),
]
FOUND = Found(
    models=MODELS,
    serving=[
        serving_pb2.ServingStatus(model=MODELS[0].name),
        serving_pb2.ServingStatus(model=MODELS[1].name, available=True),
    ],
    samplers=[
        sampler_pb2.Sampler(name="Euler", scheduler="E", schedules=["automatic", "karras"]),
        sampler_pb2.Sampler(name="Euler a", scheduler="EA", schedules=["automatic"]),
        sampler_pb2.Sampler(name="LMS", scheduler="L", schedules=["automatic", "sgm_uniform"]),
        sampler_pb2.Sampler(name="DPM++ 2M", scheduler="D", schedules=["automatic", "karras"]),
    ],
    schedules=[
        sampler_pb2.Schedule(name="automatic", label="Automatic"),
        sampler_pb2.Schedule(name="karras", label="Karras"),
        sampler_pb2.Schedule(name="sgm_uniform", label="SGM Uniform"),
    ],
)


def call(route=ROOT, found=FOUND, preferences=None, choices=None, **body):
    found = Found(found.models, found.serving, found.samplers, found.schedules, choices or {})
    return Call(
        {}, {}, {}, body, preferences or Preferences(""), route=f"{route}/txt2img", found=found
    )


def decoded(**options):
    return decode_txt2img(call(**options))


def fitted_img2img(**body):
    model = model_pb2.Model(name=f"models/{SERVED}")
    model.limits.size_multiple_px, model.limits.max_step_count = 8, 30
    return fit(decode_img2img(call(init_images=[png_base64()], **body)), model)


def noted(order):
    return {
        note.parameter: job_pb2.ParameterNote.Treatment.Name(note.treatment)[10:].lower()
        for note in order.notes
    }


class TestConformance(DialectConformance):
    """What every dialect must do."""

    dialect = DIALECT
    invalid_body = 422
    good_body: ClassVar = GOOD
    good_requests: ClassVar = {
        f"POST {mount}/img2img": {"json": {**GOOD, "init_images": [png_base64()]}}
        for mount in (ROOT, RELAY)
    }

    def assert_envelope(self, body, status):
        if status == 422 and isinstance(body["detail"], list):
            assert all(set(one) == {"loc", "msg", "type"} for one in body["detail"])
        else:
            assert set(body) == {"error", "detail", "body", "errors"}
            assert body["detail"]


def test_the_documented_fields_become_a_generation():
    """
    Every field that has a meaning here arrives; the reader of the prompt learns its syntax.
    """
    drawn = decoded(
        prompt="a (red:1.2) circle",
        negative_prompt="blue",
        seed=7,
        steps=9,
        cfg_scale=3.5,
        width=512,
        height=256,
        batch_size=2,
        n_iter=3,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        override_settings={"CLIP_stop_at_last_layers": 2},
    ).generation

    assert (drawn.prompt, drawn.negative_prompt) == ("a (red:1.2) circle", "blue")
    assert (drawn.seed, drawn.step_count, drawn.guidance_scale) == (7, 9, 3.5)
    assert (drawn.width_px, drawn.height_px, drawn.image_count) == (512, 256, 6)
    assert (drawn.sampler, drawn.schedule, drawn.clip_skip) == ("DPM++ 2M", "karras", 2)
    assert drawn.prompt_syntax == generation_pb2.Generation.PROMPT_SYNTAX_WEBUI


@pytest.mark.parametrize("fields", [{}, {"seed": None, "steps": None, "width": None}, {"seed": -1}])
def test_null_is_the_same_as_absent(fields):
    """
    Twenty steps, 512 by 512, guidance of 7, and a seed that the suite chooses.
    """
    drawn = decoded(prompt="a cat", **fields).generation

    assert (drawn.width_px, drawn.height_px) == (512, 512)
    assert (drawn.step_count, drawn.guidance_scale, drawn.image_count) == (20, 7.0, 1)
    assert not drawn.HasField("seed")
    assert not drawn.HasField("clip_skip")


def test_lenient_values_are_understood():
    """
    Clients write numbers in quotes and switches as numbers, and send fields that nobody knows.
    """
    order = decoded(steps="12", enable_hr=1, hr_scale="1.5", nobody_knows_this={"a": 1})

    assert order.generation.step_count == 12
    assert (order.generation.hires.width_px, order.generation.hires.height_px) == (768, 768)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"width": -8}, "width"),
        ({"prompt": 3}, "prompt"),
        ({"cfg_scale": 1e9}, "cfg_scale"),
        ({"seed": -2}, "seed"),
        ({"override_settings": []}, "override_settings"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 99}}, "override_settings"),
        ({"script_args": "a"}, "script_args"),
        ({"restore_faces": "perhaps"}, "restore_faces"),
    ],
)
def test_a_wrong_field_is_named(fields, field):
    """
    FastAPI's list of details will say where it stood.
    """
    with pytest.raises(InvalidRequest) as error:
        decoded(**fields)

    assert error.value.violations[0].field == field


def test_a_prompt_is_required_below_v2_only():
    """
    The relay documents it as required; AUTOMATIC1111 draws from an empty prompt.
    """
    assert decoded(prompt="").generation.prompt == ""
    with pytest.raises(InvalidRequest, match="prompt is missing"):
        decoded(route=RELAY, prompt=" ")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("pictor/shapes", SERVED),
        ("pictor_shapes", SERVED),
        ("shapes [0123456789]", SERVED),
        ("Realistic_Vision_V5.1", "Realistic_Vision_V5.1.safetensors"),
        ("realistic_vision_v5.1.safetensors [0123456789]", "Realistic_Vision_V5.1.safetensors"),
        ("stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-base-1.0"),
    ],
)
def test_a_checkpoint_is_found_by_each_of_its_names(name, model):
    """
    Title, stem, alias, with and without hash and ending.
    """
    chosen = decoded(override_settings={"sd_model_checkpoint": name}).generation.model

    assert chosen == f"models/{model}"


def test_the_checkpoint_of_the_request_wins():
    """
    The override, then the relay's field, then the option, then what is served.
    """
    override = {"override_settings": {"sd_model_checkpoint": "sdxl"}}
    choices = {"sd_model_checkpoint": "Realistic_Vision_V5.1"}

    assert decoded(model="shapes", choices=choices, **override).generation.model == MODELS[0].name
    assert decoded(model="shapes", choices=choices).generation.model == MODELS[1].name
    assert decoded(choices=choices).generation.model == MODELS[2].name
    assert decoded().generation.model == MODELS[1].name


def test_an_unknown_override_is_dropped_with_a_note():
    """
    AUTOMATIC1111 drops it silently; here the receipt tells.
    """
    order = decoded(override_settings={"sd_model_checkpoint": "nothing"})

    assert order.generation.model == MODELS[1].name
    assert noted(order)["override_settings"] == "ignored"


def test_the_relays_default_model_is_its_documented_one():
    """
    Where it is not served another one draws, and the receipt says so.
    """
    order = decoded(route=RELAY, prompt="a cat")
    serving = [serving_pb2.ServingStatus(model=MODELS[2].name, available=True)]
    served = Found(MODELS, serving, FOUND.samplers, FOUND.schedules)

    assert (order.generation.model, noted(order)["model"]) == (MODELS[1].name, "translated")
    documented = decoded(route=RELAY, prompt="a cat", found=served)
    assert documented.generation.model == MODELS[2].name


@pytest.mark.parametrize(
    ("sampler", "scheduler", "used", "notes"),
    [
        ("Euler a", "automatic", ("Euler a", ""), set()),
        ("euler A", None, ("Euler a", ""), set()),
        ("DPM++ 2M Karras", "Automatic", ("DPM++ 2M", "karras"), set()),
        ("DPM++ 2M", "karras", ("DPM++ 2M", "karras"), set()),
        ("LMS SGMUniform", None, ("LMS", "sgm_uniform"), set()),
        ("Euler a", "Karras", ("Euler a", ""), {"scheduler"}),
        ("DPM adaptive", None, ("", ""), {"sampler_name"}),
        ("Euler", "kl_optimal", ("Euler", ""), {"scheduler"}),
        (None, "Use same scheduler", ("", ""), set()),
    ],
)
def test_samplers_and_schedules_are_found_by_their_names(sampler, scheduler, used, notes):
    """
    A suffix names a schedule; what is not known is the model's own, with a note.
    """
    order = decoded(sampler_name=sampler, scheduler=scheduler)

    assert (order.generation.sampler, order.generation.schedule) == used
    assert set(noted(order)) == notes


@pytest.mark.parametrize(
    ("tag", "adapters", "notes"),
    [
        ("<lora:fur:0.8>", {"fur": 0.8}, set()),
        ("<lora:fur>", {"fur": 1.0}, set()),
        ("<lyco:fur:.5>", {"fur": 0.5}, set()),
        ("<lora:fur:te=0.5:unet=0.7>", {"fur": 0.7}, set()),
        ("<lora:fur:0.1> <lora:fur:0.2> <lora:ink:1>", {"fur": 0.2, "ink": 1.0}, set()),
        ("<lora:fur:3>", {"fur": 2.0}, {"clamped"}),
        ("<lora:fur:much>", {}, {"ignored"}),
        ("<lora:../fur:1>", {}, {"ignored"}),
        ("<hypernet:fur:1>", {}, {"ignored"}),
        ("<lora:>", {}, {"ignored"}),
        ("<lora::1>", {}, {"ignored"}),
        (" ".join(f"<lora:n{k}:1>" for k in range(9)), {f"n{k}": 1 for k in range(8)}, {"ignored"}),
    ],
)
def test_extra_networks_become_adapters_and_leave_the_prompt(tag, adapters, notes):
    """
    They must not become words of the picture, and none of them is an error.
    """
    order = decoded(prompt=f"a cat {tag}, red")

    assert order.generation.prompt == "a cat, red"
    assert {one.adapter: one.weight for one in order.generation.loras} == adapters
    assert set(noted(order).values()) == notes


def test_what_closes_around_a_network_is_none_itself():
    """
    The job service would read it as one more, and refuse its name.
    """
    order = decoded(prompt="a <lo<lora:fur:1>ra:no/name:1>")

    assert order.generation.prompt == "a lora:no/name:1>"
    assert [one.adapter for one in order.generation.loras] == ["fur"]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "<lora:" * 16_000},
        {"override_settings": {"sd_model_checkpoint": "a" + " " * 90_000 + "b"}},
    ],
    ids=["prompt", "checkpoint"],
)
def test_long_texts_take_no_time(body):
    """
    What is decoded stands in everybody's way.
    """
    started = time.monotonic()
    decoded(**body)

    assert time.monotonic() - started < 2


def test_the_parameters_of_a_file_take_no_time():
    """
    A megabyte of text in a picture is a few bytes of request.
    """
    started = time.monotonic()

    assert parse("a" * 1_000_000)["Prompt"]
    assert len(parse("a\n" + 'ab: "\\",' * 100_000)) == 2
    assert time.monotonic() - started < 2


def test_overrides_choose_the_file():
    """
    As the options of the same names do.
    """
    order = decoded(override_settings={"samples_format": "webp", "jpeg_quality": 900})
    output = order.generation.output

    assert (output.format, output.quality) == (generation_pb2.Output.FORMAT_WEBP, 100)
    assert noted(order) == {}


def test_only_the_prompt_names_networks():
    """
    The negative prompt's are ignored, and those of the second pass where they are others.
    """
    prompt = "b <lora:fur:1> <lora:ink:1>"
    hires = {"enable_hr": True, "hr_upscaler": "Lanczos", "hr_prompt": prompt}
    order = decoded(prompt="a <lora:fur:1>", negative_prompt="c <lora:fog:1>", **hires)
    off = decoded(prompt="a <lora:fur:1>", disable_extra_networks=True)

    assert [one.adapter for one in order.generation.loras] == ["fur"]
    assert order.generation.negative_prompt == "c"
    assert order.generation.hires.prompt == "b"
    assert {note.parameter: note.requested for note in order.notes} == {
        "negative_prompt": "<lora:fog:1>",
        "hr_prompt": "<lora:ink:1>",
    }
    assert (off.generation.prompt, list(off.generation.loras), off.notes) == ("a", [], [])


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("img2img", {"init_images": ["{url}"]}, "init_images.0"),
        ("img2img", {"init_images": [png_base64()], "mask": "{url}"}, "mask"),
        ("extra-single-image", {"image": "{url}"}, "image"),
        ("extra-batch-images", {"imageList": [{"data": "{url}"}]}, "imageList.0.data"),
    ],
)
async def test_an_image_may_be_a_url(house, path, body, field):
    """
    Storage is who goes there, and not to private hosts; a key's option turns it off.
    """
    url = "http://127.0.0.1:9/source.png"
    body = json.loads(json.dumps(body).replace("{url}", url))
    secret, _ = await house.key("inference")
    size = {"width": 64, "height": 64}
    async with house.client(secret) as client:
        on = await client.post(f"{ROOT}/{path}", json={**size, **body})
        await client.post(f"{ROOT}/options", json={"api_enable_requests": False})
        off = await client.post(f"{ROOT}/{path}", json={**size, **body})

    assert on.status_code == 422
    assert on.json()["detail"][0]["loc"] == ["body", *field.split(".")]
    assert "base64" not in on.text
    assert off.status_code == 400
    assert "base64" in off.json()["detail"]


async def test_large_pictures_are_no_long_texts(house):
    """
    A mask, and a picture to be enlarged or looked at, has more characters than any prompt.
    """
    noise = Image.effect_noise((512, 512), 100)
    file = io.BytesIO()
    noise.save(file, "PNG")
    large = base64.b64encode(file.getvalue()).decode()
    replies = [
        await post(house, "png-info", image=large),
        await post(house, "extra-single-image", image=large),
        await post(
            house, "img2img", init_images=[large], mask=large, prompt="a", width=64, height=64
        ),
    ]

    assert len(large) > 200_000
    assert [reply.status_code for reply in replies] == [200, 200, 200]


def test_what_has_no_effect_is_noted_and_what_asks_for_nothing_is_not():
    """
    Webuiapi sends every field with its default; that is no wish.
    """
    order = decoded(restore_faces=True, tiling=True, styles=["x"], subseed_strength=0.5)
    plain = decoded(eta=1.0, s_churn=0, s_noise=1, restore_faces=False, styles=[], tiling=False)

    assert set(noted(order)) == {"restore_faces", "tiling", "styles", "subseed_strength"}
    assert set(noted(order).values()) == {"ignored"}
    assert not plain.notes


@pytest.mark.parametrize(
    "scripts",
    [
        {},
        {"ADetailer": {"args": [False]}},
        {"ControlNet": {"args": []}},
        {"x": {"args": [False, 1]}},
    ],
)
def test_scripts_that_ask_for_nothing_are_fine(scripts):
    """
    Clients turn off what they believe to be installed.
    """
    assert decoded(alwayson_scripts=scripts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"script_name": "x/y plot"}, "Script 'x/y plot' not found"),
        ({"script_name": "sd upscale"}, "Script 'sd upscale' not found"),
        ({"alwayson_scripts": {"roop": {"args": [1]}}}, "always on script roop not found"),
        ({"alwayson_scripts": {"SD upscale": {"args": []}}}, "Cannot have a selectable script"),
    ],
)
def test_scripts_that_are_not_there_are_422(fields, message):
    """
    The sentences are AUTOMATIC1111's.
    """
    with pytest.raises(InvalidRequest, match=message):
        decoded(**fields)


def test_the_options_of_a_key_shape_its_drawings():
    """
    File format, previews and clip skip come from what was chosen before.
    """
    choices = {"samples_format": "jpg", "jpeg_quality": 70, "CLIP_stop_at_last_layers": 3}
    drawn = decoded(choices=choices).generation
    blind = decoded(choices={"live_previews_enable": False}).generation

    assert drawn.output.format == generation_pb2.Output.FORMAT_JPEG
    assert (drawn.output.quality, drawn.clip_skip, drawn.preview_count) == (70, 3, 2)
    assert not blind.preview_count


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (1024, 512)),
        ({"hr_scale": 1.5}, (768, 384)),
        ({"hr_resize_x": 800}, (800, 400)),
        ({"hr_resize_y": 512}, (1024, 512)),
        ({"hr_resize_x": 640, "hr_resize_y": 640}, (640, 640)),
    ],
)
def test_the_hires_pass_has_its_size(fields, size):
    """
    By both sides, by one of them, or by a factor.
    """
    hires = decoded(width=512, height=256, enable_hr=True, **fields).generation.hires

    assert (hires.width_px, hires.height_px) == size


def test_the_hires_pass_says_how_it_enlarges():
    """
    A latent upscaler is one of pixels here, which the receipt tells.
    """
    order = decoded(enable_hr=True, denoising_strength=0, hr_second_pass_steps=5, hr_prompt="a dog")
    sharp = decoded(enable_hr=True, hr_upscaler="Lanczos")

    hires = order.generation.hires
    assert (hires.strength, hires.step_count, hires.prompt) == (0, 5, "a dog")
    assert hires.resampling == resampling_pb2.RESAMPLING_BILINEAR
    assert noted(order) == {"hr_upscaler": "translated"}
    assert sharp.generation.hires.resampling == resampling_pb2.RESAMPLING_LANCZOS
    assert not sharp.notes
    assert not decoded(enable_hr=False, hr_scale=2).generation.HasField("hires")


def test_sizes_and_steps_come_within_what_the_model_draws():
    """
    As AUTOMATIC1111 does, down to what can be drawn; the receipt has both numbers.
    """
    order = fitted_img2img(width=517, height=256, steps=99)

    assert (order.generation.width_px, order.generation.height_px) == (512, 256)
    assert order.generation.step_count == 30
    assert noted(order) == {"width": "clamped", "steps": "clamped"}


def test_img2img_without_an_image_is_404():
    """
    The sentence is AUTOMATIC1111's.
    """
    for body in ({}, {"init_images": None}, {"init_images": []}):
        with pytest.raises(NotFound, match="Init image not found"):
            decode_img2img(call(**body))


def test_a_mask_is_repainted_close_up_by_default():
    """
    Its fill and its padding arrive; the masked part is drawn at the requested size.
    """
    order = fitted_img2img(mask=png_base64(), inpainting_fill=2, inpaint_full_res_padding=32)
    whole = fitted_img2img(mask=png_base64(), inpaint_full_res=False, inpainting_fill=1)

    treatment = order.generation.mask_treatment
    assert (treatment.fill, treatment.padding_px) == (MaskTreatment.FILL_NOISE, 32)
    assert not whole.generation.mask_treatment.HasField("padding_px")
    assert whole.generation.mask_treatment.fill == MaskTreatment.FILL_ORIGINAL


def encoded(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("fields", "convention", "invert"),
    [
        ({}, MASK_CONVENTION_OPAQUE, False),
        ({"inpainting_mask_invert": True}, MASK_CONVENTION_OPAQUE, True),
        ({"inpainting_mask_invert": 1}, MASK_CONVENTION_OPAQUE, True),
        ({"mask_round": False}, MASK_CONVENTION_OPAQUE_SOFT, False),
    ],
)
def test_the_polarity_of_masks(fields, convention, invert):
    """
    White or opaque is repainted, unless inverted; storage knows what that means.
    """
    conversion = fitted_img2img(mask=png_base64(), **fields).mask.mask.conversion

    assert (conversion.convention, conversion.invert) == (convention, invert)


@pytest.mark.parametrize(
    ("fields", "blur"),
    [
        ({}, (4, 4)),
        ({"mask_blur": 0}, (0, 0)),
        ({"mask_blur": 4, "mask_blur_y": 0}, (4, 0)),
        ({"mask_blur_x": 2, "mask_blur_y": 3}, (2, 3)),
    ],
)
def test_a_mask_is_blurred_at_its_edge(fields, blur):
    """
    By four pixels unless something else is said, for both directions or for each.
    """
    conversion = fitted_img2img(mask=png_base64(), **fields).mask.mask.conversion

    assert (conversion.blur_x_px, conversion.blur_y_px) == blur


@pytest.mark.parametrize(("mode", "crop", "fill"), [(1, True, False), (2, False, True)])
def test_resize_modes_crop_and_fill(mode, crop, fill):
    """
    A mask goes the way of its picture, which is laid on white; close up both stay as they are.
    """
    body = {"resize_mode": mode, "mask": png_base64(), "width": 48, "height": 40}
    whole = fitted_img2img(inpaint_full_res=False, **body)
    close = fitted_img2img(**body)

    resize, conversion = whole.input_images[0].resize, whole.mask.mask.conversion
    for one in (resize, conversion):
        assert (one.width_px, one.height_px, one.crop, one.fill) == (48, 40, crop, fill)
    assert resize.flatten
    assert close.input_images[0].resize is None
    assert close.mask.mask.conversion.width_px == 0


@pytest.mark.parametrize(
    ("mode", "colours"),
    [
        # Cropped: the red and the blue ends are gone.
        (1, {"lime"}),
        # Filled: the whole is there, and its edge colours reach out to the new edges.
        (2, {"red", "lime", "blue"}),
    ],
)
async def test_a_wide_picture_is_brought_to_a_square(house, mode, colours):
    """
    Without being distorted, and its mask with it: the left third is repainted, if it is there.
    """
    wide, mask = Image.new("RGB", (96, 32), "lime"), Image.new("L", (96, 32), 0)
    wide.paste("red", (0, 0, 32, 32))
    wide.paste("blue", (64, 0, 96, 32))
    mask.paste(255, (0, 0, 48, 32))
    body = {"init_images": [encoded(wide)], "mask": encoded(mask), "mask_blur": 0}
    size = {"resize_mode": mode, "width": 96, "height": 96, "inpaint_full_res": False}
    reply = await post(house, "img2img", **body, **size)
    job = await house.job(reply.headers["x-pictor-job"])
    placed, canonical = [
        await stored(house, name)
        for name in (job.generation.input_images[0].asset, job.generation.mask)
    ]

    names = {(255, 0, 0): "red", (0, 255, 0): "lime", (0, 0, 255): "blue"}
    assert (placed.size, canonical.size, canonical.mode) == ((96, 96), (96, 96), "L")
    assert {names[placed.getpixel((x, 0))] for x in (8, 48, 87)} == colours
    assert [canonical.getpixel((x, 4)) for x in (40, 56)] == [255, 0]


async def stored(house, name):
    """Open an asset as the suite."""
    token = service_token(house.inference.settings.data_dir)
    async with open_channel(house.environ["PICTOR_STORAGE_ADDRESS"], token) as channel:
        request = storage_service_pb2.ReadAssetRequest(name=name)
        messages = [m async for m in StorageServiceStub(channel).ReadAsset(request)]
    return Image.open(io.BytesIO(b"".join(message.chunk for message in messages)))


def test_the_other_resize_modes_stretch():
    """
    The device does it, in one go with the encoding; the latent mode says that it is not one.
    """
    just, latent = fitted_img2img(resize_mode=0), fitted_img2img(resize_mode=3)

    assert just.input_images[0].resize is None
    assert latent.input_images[0].resize is None
    assert noted(latent) == {"resize_mode": "translated"}


def test_sd_upscale_reads_its_arguments():
    """
    A text, the overlap, the upscaler's name or its number, and the factor.
    """
    order = fitted_img2img(script_name="SD upscale", script_args=["", 8, "Lanczos", 2.5])
    by_number = fitted_img2img(script_name="sd upscale", script_args=["", 8, 2, 2.0])
    none = fitted_img2img(script_name="sd upscale", script_args=["", 64, "None", 2.0])

    tiles = order.generation.tiles
    assert (tiles.overlap_px, tiles.factor) == (8, 2.5)
    assert by_number.generation.tiles.resampling == resampling_pb2.RESAMPLING_NEAREST
    assert none.generation.tiles.factor == 1.0


async def post(house, path, **body):
    async with house.client() as client:
        return await client.post(f"{ROOT}/{path}", json=body)


async def get(house, path, **options):
    async with house.client(**options) as client:
        return await client.get(f"{ROOT}/{path}")


async def test_an_answer_has_images_parameters_and_info(house):
    """
    Images are raw base64, and info is a text that holds an object with concrete seeds.
    """
    reply = await post(house, "txt2img", prompt="a cat", width=64, height=64, batch_size=2, seed=5)

    body = reply.json()
    info = json.loads(body["info"])
    with Image.open(io.BytesIO(base64.b64decode(body["images"][0]))) as picture:
        assert picture.size == (64, 64)
    assert (info["seed"], info["all_seeds"]) == (5, [5, 6])
    assert len(info["infotexts"]) == len(info["all_prompts"]) == 2
    assert body["parameters"]["prompt"] == "a cat"
    assert body["parameters"]["hr_scale"] == 2.0


def written(form="PNG", **texts):
    """Encode a picture that carries texts; the infotext of another format is its comment."""
    info, exif = PngImagePlugin.PngInfo(), Image.Exif()
    for name, said in texts.items():
        info.add_text(name, said)
    exif.get_ifd(IFD.Exif)[0x9286] = b"UNICODE\0" + texts["parameters"].encode("utf-16-be")
    options = {"pnginfo": info} if form == "PNG" else {"exif": exif}
    return encoded(Image.new("RGB", (8, 8)), form, **options)


INFOTEXT = "a red circle\nNegative prompt: a dog\nSteps: 3, CFG scale: 5, Seed: 11, Size: 64x128"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_png_info_tells_what_a_file_says(house, form):
    """
    The infotext, also taken apart; of PNG the other texts too.
    """
    picture = written(form, Software="a program", parameters=INFOTEXT, b="c")
    body = (await post(house, "png-info", image=picture)).json()
    caption = await post(house, "interrogate", image=picture)

    assert body["info"] == INFOTEXT
    assert (body["parameters"]["Prompt"], body["parameters"]["Size-2"]) == ("a red circle", "128")
    assert body["items"] == ({"Software": "a program", "b": "c"} if form == "PNG" else {})
    assert caption.json() == {"caption": "a red circle"}


@pytest.mark.parametrize("path", ["png-info", "interrogate"])
@pytest.mark.parametrize(
    ("image", "status"),
    [
        (None, 404),
        (" ", 404),
        ("@@", 400),
        (base64.b64encode(b"no picture").decode(), 400),
        (base64.b64encode(base64.b64decode(png_base64())[:100]).decode(), 400),
        ("https://example.com/picture.png", 400),
    ],
)
async def test_what_is_no_picture_says_nothing(house, path, image, status):
    """
    There is none, it is none, or its end is missing; URLs are not fetched for it.
    """
    reply = await post(house, path, image=image)

    assert reply.status_code == status
    assert set(reply.json()) == {"error", "detail", "body", "errors"}
    assert reply.json()["detail"].lower().startswith("image")


async def test_a_caption_needs_a_prompt_and_a_model_that_there_is(house):
    """
    Whether there is such a model is said before the picture is looked at.
    """
    nothing = await post(house, "interrogate", image=png_base64())
    model = await post(house, "interrogate", image="@@", model="other")

    assert [reply.status_code for reply in (nothing, model)] == [404, 404]
    assert "carries no prompt" in nothing.json()["detail"]
    assert model.json()["detail"] == "Model not found"


async def test_the_infotexts_of_an_answer_are_those_of_its_pictures(house):
    """
    What a drawn picture says of itself stands in info, and what it says of its prompt.
    """
    house.executor.texts = {"parameters": INFOTEXT}
    try:
        reply = await post(house, "txt2img", prompt="a cat", batch_size=2, **SMALL)
    finally:
        house.executor.texts = {}
    info = json.loads(reply.json()["info"])

    assert info["infotexts"] == [INFOTEXT] * 2
    assert info["prompt"] == "a red circle"


async def test_the_strength_of_the_second_pass_is_told(house):
    """
    Where a picture is drawn from noise, it is the second pass that has one.
    """
    size = {"width": 64, "height": 64}
    once = await post(house, "txt2img", prompt="a", denoising_strength=0.5, **size)
    twice = await post(house, "txt2img", prompt="a", denoising_strength=0.5, enable_hr=True, **size)

    assert json.loads(once.json()["info"])["denoising_strength"] is None
    assert json.loads(twice.json()["info"])["denoising_strength"] == 0.5


async def test_every_answer_says_how_long_it_took(house):
    """
    Errors and unknown routes too.
    """
    for reply in (await get(house, "samplers"), await get(house, "nothing")):
        assert float(reply.headers["x-process-time"]) >= 0


async def test_send_images_can_be_turned_off(house):
    """
    What was drawn is told, and its pictures are not sent.
    """
    reply = await post(house, "txt2img", prompt="a", width=64, height=64, send_images=False)

    assert reply.json()["images"] == []
    assert json.loads(reply.json()["info"])["seed"] >= 0


async def test_init_images_are_repeated_only_on_request(house):
    """
    They are large; AUTOMATIC1111 leaves them out by default.
    """
    body = {"init_images": [png_base64()], "width": 64, "height": 64}
    without = await post(house, "img2img", **body)
    with_them = await post(house, "img2img", include_init_images=True, **body)

    assert without.json()["parameters"]["init_images"] is None
    assert with_them.json()["parameters"]["init_images"] == [png_base64()]


async def test_errors_have_automatic1111s_envelope(house):
    """
    Its statuses too, but for pictures that are none: that is the caller's mistake.
    """
    missing = await post(house, "img2img", prompt="a")
    broken = await post(house, "img2img", prompt="a", init_images=["@@"])
    script = await post(house, "txt2img", prompt="a", script_name="nothing")
    wrong = await post(house, "txt2img", steps=0)

    assert (missing.status_code, missing.json()["detail"]) == (404, "Init image not found")
    assert (broken.status_code, script.status_code) == (400, 422)
    assert set(script.json()) == {"error", "detail", "body", "errors"}
    assert wrong.status_code == 422
    assert wrong.json()["detail"][0]["loc"] == ["body", "steps"]


async def test_a_failed_job_is_500_in_the_envelope(house):
    """
    The class of the error is named, and its sentence.
    """
    lost = to_status(Internal("it broke", reason=reasons.ERROR_REASON_OUTPUT_NOT_FINITE), "r")
    house.executor.outcomes = [worker_pb2.Report(error=lost)]
    reply = await post(house, "txt2img", prompt="a", width=64, height=64)

    assert reply.status_code == 500
    assert (reply.json()["error"], reply.json()["detail"]) == ("Internal", "it broke")


async def test_without_a_key_the_caller_is_asked_for_a_password(house):
    """
    Browsers and clients know from the header what to send.
    """
    reply = await get(house, "options", key="")

    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Basic"


async def test_progress_is_exactly_zero_when_idle(house):
    """
    Webuiapi and SillyTavern wait for just this pair.
    """
    body = (await get(house, "progress")).json()

    assert (body["progress"], body["state"]["job_count"]) == (0, 0)
    assert body["eta_relative"] == 0


async def test_a_job_that_runs_shows_in_progress_with_its_picture(house):
    """
    Also how far it is; the picture can be left out.
    """
    house.executor.previews = 1
    try:
        with house.held():
            drawing = asyncio.create_task(post(house, "txt2img", prompt="a", width=64, height=64))
            await house.executor.started.wait()
            await asyncio.sleep(0.2)
            body = (await get(house, "progress")).json()
            without = (await get(house, "progress?skip_current_image=true")).json()
    finally:
        house.executor.previews = 0
    await drawing

    assert 0 < body["progress"] <= 1
    assert body["state"]["job_count"] == 1
    assert body["state"]["job"] == "scripts_txt2img"
    with Image.open(io.BytesIO(base64.b64decode(body["current_image"]))) as picture:
        assert picture.size == (8, 8)
    assert without["current_image"] is None
    assert (await get(house, "progress")).json()["progress"] == 0


async def test_others_do_not_see_ones_progress(house):
    """
    Progress and interrupt are the caller's own, not the server's.
    """
    secret, _ = await house.key("inference", new_account=True)
    with house.held():
        drawing = asyncio.create_task(post(house, "txt2img", prompt="a", width=64, height=64))
        await house.executor.started.wait()
        body = (await get(house, "progress", key=secret)).json()
        async with house.client(secret) as other:
            await other.post(f"{ROOT}/interrupt")
        assert body["progress"] == 0
        assert not house.executor.finished
    assert (await drawing).status_code == 200


async def test_interrupt_ends_the_drawing_with_what_there_is(house):
    """
    The waiting call is answered with 200, and the images that were drawn so far.
    """
    with house.held():
        drawing = asyncio.create_task(post(house, "txt2img", prompt="a", width=64, height=64))
        await house.executor.started.wait()
        await asyncio.sleep(0.1)
        reply = await post(house, "interrupt")
        drawn = await drawing

    assert (reply.status_code, reply.json()) == (200, {})
    assert drawn.status_code == 200
    assert len(drawn.json()["images"]) == 1


async def test_interrupt_ends_what_waits_without_a_picture(house):
    """
    A drawing that has not begun answers with 200 and no images.
    """
    with house.held():
        first = asyncio.create_task(post(house, "txt2img", prompt="a", width=64, height=64))
        await house.executor.started.wait()
        second = asyncio.create_task(post(house, "txt2img", prompt="b", width=64, height=64))
        await asyncio.sleep(0.2)
        await post(house, "interrupt")
        replies = await asyncio.gather(first, second)

    assert [reply.status_code for reply in replies] == [200, 200]
    assert [len(reply.json()["images"]) for reply in replies] == [1, 0]
    assert json.loads(replies[1].json()["info"])["prompt"] == "b"


async def test_skip_answers_null(house):
    """
    Webuiapi reads JSON, whatever comes.
    """
    reply = await post(house, "skip")

    assert (reply.status_code, reply.json()) == (200, None)


async def test_options_are_kept_for_each_key(house):
    """
    One user's checkpoint and switches are not another's, even in one account.
    """
    secret, _ = await house.key("inference")
    reply = await post(house, "options", send_seed=False, some_number=3, nothing=[1], other="x")
    mine = (await get(house, "options")).json()
    others = (await get(house, "options", key=secret)).json()
    await post(house, "options", send_seed=True, some_number=None)
    back = (await get(house, "options")).json()

    assert reply.json() is None
    assert (mine["send_seed"], mine["some_number"], mine["other"]) == (False, 3, "x")
    assert "nothing" not in mine
    assert others["send_seed"] is True
    assert back["send_seed"] is True
    assert "some_number" not in back
    assert "forge_preset" not in mine


async def test_an_unknown_checkpoint_is_refused_as_an_option(house):
    """
    The error lists what there is, and nothing is kept.
    """
    reply = await post(house, "options", sd_model_checkpoint="nothing.safetensors")

    assert reply.status_code == 404
    assert "not found" in reply.json()["detail"]
    assert (await get(house, "options")).json()["sd_model_checkpoint"] == SERVED


LISTS = (
    "samplers",
    "schedulers",
    "upscalers",
    "latent-upscale-modes",
    "sd-models",
    "sd-vae",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "loras",
    "extensions",
    "script-info",
)


@pytest.mark.parametrize("mount", [ROOT, RELAY])
async def test_every_list_is_there(house, mount):
    """
    Lists of what this server has not got are empty and not missing.
    """
    async with house.client() as client:
        lists = {name: (await client.get(f"{mount}/{name}")).json() for name in LISTS}
        scripts = (await client.get(f"{mount}/scripts")).json()
        others = [
            (await client.get(f"{mount}/{name}")).json()
            for name in ("embeddings", "cmd-flags", "memory", "options", "progress")
        ]

    assert all(isinstance(listed, list) for listed in lists.values())
    assert {"Euler a", "DPM++ 2M"} <= {one["name"] for one in lists["samplers"]}
    schedules = {one["name"]: one["aliases"] for one in lists["schedulers"]}
    assert (schedules["karras"], schedules["sgm_uniform"]) == (None, ["SGMUniform"])
    assert [one["name"] for one in lists["upscalers"]] == ["None", "Lanczos", "Nearest"]
    assert [one["title"] for one in lists["sd-models"]] == [SERVED]
    assert scripts == {"txt2img": [], "img2img": ["sd upscale"]}
    assert others[0] == {"loaded": {}, "skipped": {}}
    assert all(isinstance(one, dict) for one in others)


async def test_refreshing_answers_null_and_loading_an_object(house):
    """
    The bodies that clients read.
    """
    for name in ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings"):
        assert (await post(house, name)).json() is None
    for name in ("unload-checkpoint", "reload-checkpoint"):
        assert (await post(house, name)).json() == {}
    assert (await post(house, "server-kill")).status_code == 404


async def test_malformed_credentials_are_nobodys_where_no_key_is_needed(tmp_path):
    """
    Open WebUI and SillyTavern send empty and bogus headers when they were given no password.
    """
    async with (
        open_house(tmp_path, PICTOR_REQUIRE_KEY="false") as house,
        house.client("") as client,
    ):
        for header in ("", "Basic", "Basic dW5kZWZpbmVk", "Basic Og==", "Basic @", "nonsense"):
            reply = await client.get(f"{ROOT}/options", headers={"authorization": header})
            assert reply.status_code == 200, header


async def test_a_key_as_a_basic_password_opens(house):
    """
    Webuiapi and browsers can send nothing else.
    """
    async with house.client("") as client:
        reply = await client.get(f"{ROOT}/samplers", auth=("anybody", house.api_key))

    assert reply.status_code == 200


async def test_adapters_and_embeddings_are_listed(house):
    """
    As prompts name them; where their files lie is not told.
    """
    address, token = house.environ["PICTOR_CATALOG_ADDRESS"], house.inference.token
    replica = serving_pb2.Replica(
        replica_id="adapters", device="cpu", adapters=["ink"], embeddings=["wash"]
    )
    async with open_channel(address, token) as channel, house.client() as client:
        stub = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        request = serving_pb2.ReportReplicaRequest(replica=replica)
        await stub.ReportReplica(request)
        loras = (await client.get("/sdapi/v1/loras")).json()
        embeddings = (await client.get("/sdapi/v1/embeddings")).json()
        request.ttl.SetInParent()
        await stub.ReportReplica(request)
        none = (await client.get("/sdapi/v1/loras")).json()

    assert [(one["name"], one["path"]) for one in loras] == [("ink", "ink.safetensors")]
    assert list(embeddings["loaded"]) == ["wash"]
    assert none == []


async def test_an_infotext_fills_what_is_left_out(house):
    """
    A picture's own parameters draw it again; what the request says itself counts more.
    """
    text = "a red circle\nNegative prompt: a dog\nSteps: 3, CFG scale: 5, Seed: 11, Size: 64x128"
    again = await post(house, "txt2img", infotext=text)
    other = await post(house, "txt2img", infotext=text, seed=12, steps=4, negative_prompt=None)
    drawn = [json.loads(reply.json()["info"]) for reply in (again, other)]

    assert [(info["prompt"], info["negative_prompt"]) for info in drawn] == [
        ("a red circle", "a dog")
    ] * 2
    assert [(info["width"], info["height"], info["cfg_scale"]) for info in drawn] == [
        (64, 128, 5)
    ] * 2
    assert [(info["seed"], info["steps"]) for info in drawn] == [(11, 3), (12, 4)]
