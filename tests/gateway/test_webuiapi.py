"""AUTOMATIC1111's clients as they are, against the running suite: nothing of it is replaced."""

import asyncio
import base64
import io
import json
import time

import numpy as np
import pytest
import webuiapi
from PIL import Image

MODEL = "pictor/shapes"
SIZE = {"width": 256, "height": 256}
QUICK = {"steps": 2, "seed": 7, **SIZE}


@pytest.fixture
def api(suite):
    """webuiapi, as its users set it up: a base URL, and a key as the password."""
    return connected(suite, f"{suite.url}/sdapi/v1")


def connected(suite, url):
    return webuiapi.WebUIApi(baseurl=url, username="anybody", password=suite.api_key)


def wait(blocking, *arguments, **named):
    return asyncio.to_thread(blocking, *arguments, **named)


def pixels(picture):
    return np.asarray(picture.convert("RGB")).astype(int)


def picture(colour="gray"):
    image = Image.new("RGB", (256, 256), colour)
    image.paste("red", (64, 64, 128, 128))
    return image


def mask():
    left_half = Image.new("RGB", (256, 256), "black")
    left_half.paste("white", (0, 0, 128, 256))
    return left_half


async def raw(suite, path, body=None):
    async with suite.client() as client:
        if body is None:
            return await client.get(f"/sdapi/v1/{path}")
        return await client.post(f"/sdapi/v1/{path}", json=body)


@pytest.mark.parametrize("mount", ["/sdapi/v1", "/v2/automatic1111/sdapi/v1"])
async def test_txt2img(suite, mount):
    """
    Pictures come with their seeds, and with an infotext that tells how they were drawn.
    """
    api = await wait(connected, suite, suite.url + mount)
    drawn = await wait(api.txt2img, prompt="a red circle", batch_size=2, cfg_scale=3, **QUICK)

    assert [image.size for image in drawn.images] == [(256, 256)] * 2
    assert drawn.info["all_seeds"] == [7, 8]
    assert (drawn.info["sampler_name"], drawn.info["sd_model_name"]) == ("Euler a", MODEL)
    assert drawn.images[1].info["parameters"] == drawn.info["infotexts"][1]
    assert drawn.parameters["steps"] == 2


async def test_img2img_with_a_mask_changes_the_masked_part_only(api):
    """
    The same region through each of the conventions; all else keeps every pixel.
    """
    transparent = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    transparent.paste((0, 0, 0, 255), (0, 0, 128, 256))
    inverted = Image.eval(mask(), lambda value: 255 - value)
    results = [
        await wait(
            api.img2img,
            images=[picture()],
            prompt="a blue square",
            mask_image=one,
            mask_blur=0,
            inpainting_mask_invert=invert,
            inpaint_full_res=False,
            inpainting_fill=1,
            **QUICK,
        )
        for one, invert in ((mask(), 0), (transparent, 0), (inverted, 1))
    ]

    before = pixels(picture())
    first = pixels(results[0].image)
    assert (first[:, 128:] == before[:, 128:]).all()
    assert (first[:, :128] != before[:, :128]).any()
    for other in results[1:]:
        assert (pixels(other.image) == first).all()


async def test_only_masked_draws_close_up_and_puts_it_back(api):
    """
    The result has the size of the init image; what the mask keeps is bit-exact.
    """
    large = Image.new("RGB", (512, 384), "gray")
    spot = Image.new("L", (512, 384), 0)
    spot.paste(255, (100, 100, 140, 160))
    drawn = await wait(
        api.img2img,
        images=[large],
        prompt="a red circle",
        mask_image=spot,
        mask_blur=0,
        inpaint_full_res=True,
        inpaint_full_res_padding=16,
        **QUICK,
    )

    changed = (pixels(drawn.image) != pixels(large)).any(axis=2)
    assert drawn.image.size == (512, 384)
    assert changed[100:160, 100:140].any()
    changed[100:160, 100:140] = False
    assert not changed.any()


async def test_an_empty_mask_with_only_masked_is_plain_img2img(api):
    """
    As in AUTOMATIC1111, the whole picture is drawn at the requested size.
    """
    nothing = Image.new("L", (256, 256), 0)
    drawn = await wait(api.img2img, images=[picture()], prompt="a", mask_image=nothing, **QUICK)

    assert (pixels(drawn.image) != pixels(picture())).any()


async def test_each_fill_draws_another_picture(api):
    """
    What stands in the masked part before the noise is seen through it.
    """
    drawn = [
        await wait(
            api.img2img,
            images=[picture()],
            prompt="a green triangle",
            mask_image=mask(),
            inpaint_full_res=False,
            denoising_strength=0.6,
            inpainting_fill=fill,
            **{**QUICK, "steps": 4},
        )
        for fill in range(4)
    ]

    assert len({pixels(one.image).tobytes() for one in drawn}) == 4


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
async def test_every_resize_mode_gives_the_requested_size(api, mode):
    """
    Whatever the proportions of the init image.
    """
    wide = picture().resize((512, 128))
    drawn = await wait(api.img2img, images=[wide], prompt="a", resize_mode=mode, **QUICK)

    assert drawn.image.size == (256, 256)


async def test_the_hires_pass_draws_a_larger_picture_anew(api):
    """
    With a strength it differs from the enlarged first pass, without one it is just that.
    """
    options = {"prompt": "a red circle", "enable_hr": True, "hr_upscaler": "Lanczos", **QUICK}
    small = await wait(api.txt2img, prompt="a red circle", **QUICK)
    drawn = await wait(api.txt2img, denoising_strength=0.6, **options)
    enlarged = await wait(api.txt2img, denoising_strength=0, **options)

    simply = small.image.resize((512, 512), Image.Resampling.LANCZOS)
    assert drawn.image.size == enlarged.image.size == (512, 512)
    assert (pixels(enlarged.image) == pixels(simply)).all()
    assert (pixels(drawn.image) != pixels(simply)).any()
    assert "Hires upscale: 2" in drawn.info["infotexts"][0]


async def test_sd_upscale_draws_an_enlarged_picture_tile_by_tile(api):
    """
    The script of AUTOMATIC1111's own tests; the result is twice as large.
    """
    drawn = await wait(
        api.img2img,
        images=[picture()],
        prompt="a red square",
        denoising_strength=0.5,
        script_name="sd upscale",
        script_args=["", 8, "Lanczos", 2.0],
        **QUICK,
    )

    plain = picture().resize((512, 512), Image.Resampling.LANCZOS)
    assert drawn.image.size == (512, 512)
    assert (pixels(drawn.image) != pixels(plain)).any()


async def test_extras_enlarge_without_drawing(api):
    """
    By a factor or to a size, one picture or several; None leaves the size.
    """
    single = await wait(api.extra_single_image, picture(), upscaler_1="Lanczos", upscaling_resize=2)
    sized = await wait(
        api.extra_single_image,
        picture(),
        resize_mode=1,
        upscaler_1="Nearest",
        upscaling_resize_w=128,
        upscaling_resize_h=64,
    )
    batch = await wait(api.extra_batch_images, [picture()] * 2, upscaler_1="Lanczos")
    none = await wait(api.extra_single_image, picture())

    lanczos = picture().resize((512, 512), Image.Resampling.LANCZOS)
    assert (pixels(single.image) == pixels(lanczos)).all()
    assert sized.image.size == (128, 64)
    assert [image.size for image in batch.images] == [(512, 512)] * 2
    assert (pixels(none.image) == pixels(picture())).all()
    assert "Lanczos" in single.info


async def test_png_info_reads_back_what_was_drawn(api):
    """
    The prompt with its commas and lines, and each number.
    """
    drawn = await wait(
        api.txt2img,
        prompt="a red circle, (big:1.2)\non white",
        negative_prompt="blue: very",
        cfg_scale=3.5,
        sampler_name="DPM++ 2M",
        scheduler="karras",
        **QUICK,
    )
    told = await wait(api.png_info, drawn.image)
    nothing = await wait(api.png_info, picture())

    assert (
        told.parameters
        | {
            "Prompt": "a red circle, (big:1.2)\non white",
            "Negative prompt": "blue: very",
            "Steps": "2",
            "Sampler": "DPM++ 2M",
            "Schedule type": "Karras",
            "CFG scale": "3.5",
            "Seed": "7",
            "Size-1": "256",
            "Size-2": "256",
            "Model": MODEL,
        }
        == told.parameters
    )
    assert (nothing.info, nothing.parameters) == ("", {})


async def test_interrogate_tells_the_prompt_or_that_it_cannot(api):
    """
    No model here looks at pictures; a picture's own prompt is known, and anything else is refused.
    """
    drawn = await wait(api.txt2img, prompt="a red circle", **QUICK)

    assert (await wait(api.interrogate, drawn.image)).info == "a red circle"
    with pytest.raises(RuntimeError, match="Model not found"):
        await wait(api.interrogate, picture())


async def test_an_interrupted_drawing_answers_with_its_unfinished_picture(suite, api):
    """
    Progress and interrupt are answered at once while it draws; the waiting call gets 200.
    """
    drawing = asyncio.create_task(
        wait(api.txt2img, prompt="a red circle", **{**QUICK, "steps": 150})
    )
    previewed, slowest = None, 0.0
    async with asyncio.timeout(60):
        while previewed is None:
            started = time.monotonic()
            body = (await raw(suite, "progress")).json()
            slowest = max(slowest, time.monotonic() - started)
            previewed = body["current_image"]
            await asyncio.sleep(0.02)
    assert 0 < body["progress"] < 1
    assert body["state"]["job_count"] == 1
    with Image.open(io.BytesIO(base64.b64decode(previewed))) as preview:
        assert preview.size == (256, 256)

    assert (await raw(suite, "interrupt", {})).json() == {}
    drawn = await drawing

    assert drawn.image.size == (256, 256)
    assert (await raw(suite, "progress")).json()["progress"] == 0
    async with suite.client() as client:
        listed = (await client.get("/pictor/v1/jobs?pageSize=1")).json()["jobs"][0]
    notes = {note["parameter"]: note for note in listed["receipt"]}
    assert int(notes["step_count"]["used"]) < 150
    assert slowest < 5


async def test_options_and_models_by_their_client(api):
    """
    Set, read, choose a checkpoint by its name, wait until the server is ready.
    """
    before = await wait(api.get_options)
    await wait(api.set_options, {"send_seed": not before["send_seed"]})
    after = await wait(api.get_options)
    await wait(api.set_options, {"send_seed": before["send_seed"]})
    await wait(api.util_set_model, "shapes")
    await wait(api.util_wait_for_ready, 0.1)

    assert after["send_seed"] is not before["send_seed"]
    assert await wait(api.util_get_model_names) == [MODEL]
    assert (await wait(api.get_options))["sd_model_checkpoint"] == MODEL


async def test_every_listing_by_its_client(api):
    """
    Each method that webuiapi has for lists returns JSON of the right kind.
    """
    for method, kind in {
        api.get_cmd_flags: dict,
        api.get_progress: dict,
        api.get_samplers: list,
        api.get_schedulers: list,
        api.get_sd_vae: list,
        api.get_upscalers: list,
        api.get_latent_upscale_modes: list,
        api.get_loras: list,
        api.get_sd_models: list,
        api.get_hypernetworks: list,
        api.get_face_restorers: list,
        api.get_realesrgan_models: list,
        api.get_prompt_styles: list,
        api.get_scripts: dict,
        api.get_embeddings: dict,
        api.get_memory: dict,
        api.skip: type(None),
        api.interrupt: dict,
        api.refresh_checkpoints: type(None),
    }.items():
        assert isinstance(await wait(method), kind), method

    assert "Euler a" in await wait(api.util_get_sampler_names)
    assert "karras" in [one.lower() for one in await wait(api.util_get_scheduler_names)]


TESTED = {
    "prompt": "example prompt",
    "negative_prompt": "",
    "styles": [],
    "seed": -1,
    "subseed": -1,
    "subseed_strength": 0,
    "seed_resize_from_h": -1,
    "seed_resize_from_w": -1,
    "batch_size": 1,
    "n_iter": 1,
    "steps": 3,
    "cfg_scale": 7,
    "width": 64,
    "height": 64,
    "restore_faces": False,
    "tiling": False,
    "denoising_strength": 0,
    "enable_hr": False,
    "firstphase_width": 0,
    "firstphase_height": 0,
    "eta": 0,
    "s_churn": 0,
    "s_tmax": 0,
    "s_tmin": 0,
    "s_noise": 1,
    "sampler_index": "Euler a",
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"negative_prompt": "example negative prompt"},
        {
            "prompt": r"a, (b), ((c)), (d:1.1), [e], [f:g:0.5], [h::1], [i:2], [j|k|l], \(m\), {n}"
            " AND nothing BREAK end (unclosed"
        },
        {"height": 128},
        {"enable_hr": True},
        {"tiling": True},
        {"restore_faces": True},
        {"sampler_index": "PLMS"},
        {"sampler_index": "DDIM"},
        {"sampler_index": "UniPC"},
        {"n_iter": 2},
        {"batch_size": 2},
    ],
)
async def test_automatic1111s_own_tests_of_txt2img(suite, fields):
    """
    Each request of its test folder is answered with 200 and as many images as it asks for.
    """
    body = {**TESTED, **fields, "a_field_that_nobody_knows": 1}
    reply = await raw(suite, "txt2img", body)

    assert reply.status_code == 200, reply.text
    assert len(reply.json()["images"]) == body["batch_size"] * body["n_iter"]


def data_url(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mask": data_url(mask())},
        {"mask": data_url(mask()), "inpainting_mask_invert": True},
        {"script_name": "sd upscale", "script_args": ["", 8, "Lanczos", 2.0]},
    ],
)
async def test_automatic1111s_own_tests_of_img2img(suite, fields):
    """
    Each request of its test folder is answered with 200 and an image.
    """
    body = {
        **TESTED,
        "denoising_strength": 0.75,
        "init_images": [data_url(picture().resize((64, 64)))],
        "inpaint_full_res": False,
        "inpaint_full_res_padding": 0,
        "inpainting_fill": 0,
        "inpainting_mask_invert": False,
        "mask": None,
        "mask_blur": 4,
        "resize_mode": 0,
        "override_settings": {},
        **fields,
    }
    reply = await raw(suite, "img2img", body)

    assert reply.status_code == 200, reply.text
    assert len(reply.json()["images"]) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"upscaler_1": "Lanczos", "upscaling_resize": 2, "upscaling_resize_w": 128},
        {},
        {"model": "clip"},
    ],
)
async def test_automatic1111s_own_tests_of_extras(suite, fields):
    """
    All three post to extra-single-image, one of them with a field of another route.
    """
    reply = await raw(suite, "extra-single-image", {"image": data_url(picture()), **fields})

    assert reply.status_code == 200, reply.text
    assert reply.json()["image"]


async def test_open_webui_chooses_a_model_and_draws(suite):
    """
    It reads all options, changes one, posts all of them back, and reads images and info.
    """
    options = (await raw(suite, "options")).json()
    models = (await raw(suite, "sd-models")).json()
    options["sd_model_checkpoint"] = models[0]["title"]
    chosen = await raw(suite, "options", options)
    body = {"prompt": "a red circle", "batch_size": 1, "width": 256, "height": 256, "steps": 2}
    drawn = (await raw(suite, "txt2img", body)).json()

    assert chosen.status_code == 200
    assert {"title", "model_name"} <= set(models[0])
    assert len(drawn["images"]) == 1
    assert json.loads(drawn["info"])


async def test_sillytavern_draws(suite):
    """
    It pings, lists, chooses, waits until nothing runs, and sends its whole request object.
    """
    assert (await raw(suite, "options")).status_code == 200
    upscalers = (await raw(suite, "upscalers")).json()
    assert upscalers[0]["name"] == "None"
    for name in ("latent-upscale-modes", "sd-vae", "samplers", "schedulers", "sd-models"):
        assert isinstance((await raw(suite, name)).json(), list)
    await raw(suite, "options", {"sd_model_checkpoint": MODEL})
    progress = (await raw(suite, "progress")).json()
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
    drawn = await raw(
        suite,
        "txt2img",
        {
            "url": "http://127.0.0.1:7860",
            "auth": "",
            "prompt": "a red circle",
            "negative_prompt": "text",
            "sampler_name": "Euler a",
            "scheduler": "Automatic",
            "steps": 2,
            "cfg_scale": 7,
            "width": 256,
            "height": 256,
            "restore_faces": False,
            "enable_hr": False,
            "hr_upscaler": "Latent",
            "hr_scale": 2,
            "denoising_strength": 0.7,
            "hr_second_pass_steps": 0,
            "seed": -1,
            "clip_skip": 1,
            "override_settings": {"CLIP_stop_at_last_layers": 1, "sd_vae": "Automatic"},
            "save_images": True,
            "send_images": True,
            "do_not_save_grid": False,
            "do_not_save_samples": False,
        },
    )

    assert drawn.status_code == 200
    assert drawn.json()["images"][0]


async def test_the_relays_documented_request(stand_in_suite):
    """
    A prompt alone takes the documented defaults: the model, 20 steps, 512 by 512, guidance of 7.
    """
    async with stand_in_suite.client() as client:
        reply = await client.post(
            "/v2/automatic1111/sdapi/v1/txt2img", json={"prompt": "a red circle"}
        )
        job = (await client.get(f"/pictor/v1/jobs/{reply.headers['x-pictor-job']}")).json()

    drawn = job["generation"]
    with Image.open(io.BytesIO(base64.b64decode(reply.json()["images"][0]))) as image:
        assert image.size == (512, 512)
    assert drawn["model"] == "models/Realistic_Vision_V5.1.safetensors"
    assert (drawn["stepCount"], drawn["guidanceScale"]) == (20, 7.0)


async def test_where_no_encoder_knows_attention_the_words_are_drawn(stand_in_suite):
    """
    The signs are no error, whatever the model.
    """
    body = {"prompt": "a (red:1.2) [circle|square]", "model": "FLUX.1-schnell", **QUICK}
    async with stand_in_suite.client() as client:
        reply = await client.post("/sdapi/v1/txt2img", json=body)

    assert reply.status_code == 200, reply.text
