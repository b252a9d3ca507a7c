"""txt2img and img2img: what a request means, and how a finished job is told."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway import schemas
from gateway.automatic1111 import names, options
from gateway.automatic1111.infotext import carried_by, parse
from gateway.automatic1111.parameters import IMG2IMG, TXT2IMG, Parameter, described, ignored, read
from gateway.dialect import Answer, Call, Order, Shown
from gateway.fields import Fields
from gateway.images import InputFile, MaskRule
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from pictor.inference.v1 import generation_pb2, job_pb2, refinement_pb2
from pictor.storage.v1 import image_description_pb2, mask_convention_pb2, storage_service_pb2
from services.rpc.errors import InvalidRequest, NotFound, invalid

Note = job_pb2.ParameterNote
InputImage = generation_pb2.InputImage
MaskTreatment = refinement_pb2.MaskTreatment

SD_UPSCALE = "sd upscale"
VERSION = "v1.10.1-pictor"
MOST_PREVIEWS = 20
LEAST_STRENGTH = 1e-4
HIRES_STRENGTH = 0.75
# Resize modes by number; the fourth resizes latents in AUTOMATIC1111.
STRETCH, CROP, FILL, LATENT = range(4)
# Keys of an infotext that AUTOMATIC1111 counts among the extra ones.
EXTRA = ("Schedule type", "Hires", "SD upscale")
FILLS = (
    MaskTreatment.FILL_SURROUNDINGS,
    MaskTreatment.FILL_ORIGINAL,
    MaskTreatment.FILL_NOISE,
    MaskTreatment.FILL_NOTHING,
)


REPLIES = {
    name: schemas.answered(
        {
            "images": schemas.listed(schemas.text(contentEncoding="base64")),
            "parameters": described(table),
            "info": schemas.text("A JSON object: seeds, infotexts, and what was drawn."),
        }
    )
    for name, table in (("txt2img", TXT2IMG), ("img2img", IMG2IMG))
}


def decode_txt2img(call: Call) -> Order:
    """Read POST txt2img."""
    return _decode(call, TXT2IMG, scripts=())


def decode_img2img(call: Call) -> Order:
    """
    Read POST img2img.

    Raises:
        NotFound: If there is no init image.
    """
    order = _decode(call, IMG2IMG, scripts=(SD_UPSCALE,))
    if not order.echo["parameters"]["init_images"]:
        raise NotFound("Init image not found", reason=reasons.ERROR_REASON_ASSET_NOT_FOUND)
    return order


def fit(order: Order, model: model_pb2.Model) -> Order:
    """Bring sizes and steps within what the model draws, and prepare the init image and mask."""
    values = order.echo["parameters"]
    generation = generation_pb2.Generation()
    generation.CopyFrom(order.generation)
    notes = list(order.notes)
    multiple = model.limits.size_multiple_px or 1
    for name in ("width_px", "height_px"):
        _floor(generation, name, multiple, notes)
    if generation.HasField("hires"):
        for name in ("width_px", "height_px"):
            side = getattr(generation.hires, name)
            setattr(generation.hires, name, max(multiple, side // multiple * multiple))
    most = model.limits.max_step_count
    if most and generation.step_count > most:
        reason = "the most steps that the model takes"
        notes.append(_note("steps", "CLAMPED", generation.step_count, most, reason))
        generation.step_count = most
    fitting = dataclasses.replace(order, generation=generation, notes=notes)
    return _with_pictures(fitting, values) if "init_images" in values else fitting


def encode(shown: Shown) -> Answer:
    """Write a finished job: the images, what was asked for, and what was drawn."""
    echo = shown.order.echo if shown.order else {}
    values = dict(echo.get("parameters", {}))
    if not values.get("include_init_images"):
        values |= {name: None for name in ("init_images", "mask") if name in values}
    images = list(shown.contents) if values.get("send_images", True) else []
    info = json.dumps(_info(shown.job, shown.descriptions, values))
    return Answer({"images": images, "parameters": values, "info": info})


def encode_interrupted(job: job_pb2.Job) -> Answer:
    """Write a job that was interrupted before there was any picture."""
    return Answer({"images": [], "parameters": {}, "info": json.dumps(_info(job, (), {}))})


def _decode(call: Call, table: Mapping[str, Parameter], scripts: Sequence[str]) -> Order:
    fields, values = read(call.body, table)
    if call.route.startswith("/v2/") and not values["prompt"].strip():
        reason = reasons.ERROR_REASON_FIELD_REQUIRED
        fields.blame("prompt", "prompt is missing", reason)
    fields.check()
    _check_scripts(values, scripts)
    chosen = options.current(call.found.choices, call.found, call.preferences)
    notes: list[Note] = []
    model = _model(call, values, chosen, notes)
    sampler, schedule, others = names.sampler_of(
        values["sampler_name"] or values["sampler_index"], values["scheduler"], call.found
    )
    notes += others
    prompt, tags = names.without_networks(values["prompt"])
    if values["disable_extra_networks"]:
        tags = []
    loras, others = names.loras_of(tags)
    notes += others
    generation = generation_pb2.Generation(
        model=model,
        prompt=prompt,
        negative_prompt=_prompt(values, "negative_prompt", (), notes),
        loras=loras,
        prompt_syntax=generation_pb2.Generation.PROMPT_SYNTAX_WEBUI,
        width_px=values["width"],
        height_px=values["height"],
        step_count=values["steps"],
        guidance_scale=values["cfg_scale"],
        seed=None if values["seed"] < 0 else values["seed"],
        image_count=values["batch_size"] * values["n_iter"],
        sampler=sampler,
        schedule=schedule,
        clip_skip=_clip_skip(values, chosen, notes),
        output=_output({**chosen.values, **values["override_settings"]}),
        preview_count=_preview_count(values["steps"], chosen),
    )
    if values.get("enable_hr"):
        generation.hires.CopyFrom(_hires(values, tags, notes))
    for key, value in ignored(values, table).items():
        notes.append(_note(key, "IGNORED", value, "", "has no effect on this server"))
    echo = {"parameters": values, "urls": options.takes_urls(chosen)}
    return Order(generation, contents=True, descriptions=True, notes=notes[:45], echo=echo)


def _check_scripts(values: Mapping[str, Any], scripts: Sequence[str]) -> None:
    script = (values["script_name"] or "").strip().lower()
    if script not in ("", "none", *scripts):
        raise _no_script(f"Script '{values['script_name'][:100]}' not found")
    for name, entry in values["alwayson_scripts"].items():
        if name.strip().lower() == SD_UPSCALE:
            rule = "Cannot have a selectable script in the always on scripts params"
            raise _no_script(rule)
        arguments = entry.get("args") if isinstance(entry, dict) else None
        # Clients turn off what they found in no list, too: that asks for nothing.
        if arguments and not (isinstance(arguments, list) and arguments[0] is False):
            raise _no_script(f"always on script {name[:100]} not found")


def _no_script(message: str) -> InvalidRequest:
    # Not about one field: AUTOMATIC1111 says it in its own envelope and not in FastAPI's.
    return InvalidRequest(message, reason=reasons.ERROR_REASON_OPERATION_UNSUPPORTED)


def _model(
    call: Call, values: Mapping[str, Any], chosen: options.Options, notes: list[Note]
) -> str:
    wanted = values["override_settings"].get("sd_model_checkpoint")
    if isinstance(wanted, str) and wanted:
        if model := names.checkpoint(wanted, call.found.models):
            return model.name
        reason = "there is no such checkpoint"
        notes.append(_note("override_settings", "IGNORED", wanted, "", reason))
    if values["model"]:
        model = names.checkpoint(values["model"], call.found.models)
        return model.name if model else f"models/{values['model']}"
    own = "sd_model_checkpoint" in call.found.choices or call.preferences.default_model
    if call.route.startswith("/v2/") and not own:
        return _documented(call, chosen, notes)
    if not chosen.model:
        raise NotFound("no checkpoint is served", reason=reasons.ERROR_REASON_MODEL_NOT_FOUND)
    return chosen.model.name


def _documented(call: Call, chosen: options.Options, notes: list[Note]) -> str:
    """Return the relay's default model, or what draws where it is not served."""
    documented = names.checkpoint(names.DOCUMENTED_MODEL, call.found.models)
    if documented and (documented in names.served(call.found) or not chosen.model):
        return documented.name
    if not chosen.model:
        return f"models/{names.DOCUMENTED_MODEL}"
    reason = "the documented default is not being served"
    used = names.title(chosen.model)
    notes.append(_note("model", "TRANSLATED", names.DOCUMENTED_MODEL, used, reason))
    return chosen.model.name


def _prompt(values: Mapping[str, Any], key: str, applied: Sequence[str], notes: list[Note]) -> str:
    """Return one of the prompts that name no networks of their own."""
    prompt, tags = names.without_networks(values[key])
    if further := [tag for tag in tags if tag not in applied]:
        reason = "the networks of the prompt are applied, and no others"
        notes.append(_note(key, "IGNORED", ", ".join(further), "", reason))
    return prompt


def _clip_skip(values: Mapping[str, Any], chosen: options.Options, notes: list[Note]) -> int | None:
    settings = {"CLIP_stop_at_last_layers": chosen.values["CLIP_stop_at_last_layers"]}
    known = (
        "CLIP_stop_at_last_layers",
        "sd_model_checkpoint",
        *options.WITHOUT_EFFECT,
        *options.OF_FILES,
    )
    for name, value in values["override_settings"].items():
        if name == "CLIP_stop_at_last_layers":
            settings[name] = value
        elif name == "sd_vae" and value not in ("", "None", "Automatic", None):
            reason = "the checkpoint's own VAE decodes"
            notes.append(_note("sd_vae", "IGNORED", value, "", reason))
        elif name not in (*known, "sd_vae"):
            reason = "has no effect on this server"
            notes.append(_note(f"override_settings.{name}", "IGNORED", value, "", reason))
    skip = settings["CLIP_stop_at_last_layers"]
    if skip is None or (isinstance(skip, int | float) and skip in range(13)):
        return int(skip) if skip and skip > 1 else None
    raise invalid(
        "override_settings", f"CLIP_stop_at_last_layers {str(skip)[:40]!r} is not 1 to 12"
    )


def _output(settings: Mapping[str, Any]) -> generation_pb2.Output:
    output = generation_pb2.Output(format=names.formats(str(settings["samples_format"])))
    if output.format != generation_pb2.Output.FORMAT_PNG:
        quality = settings["jpeg_quality"]
        quality = quality if isinstance(quality, int | float) else 80
        output.quality = int(min(max(quality, 1), 100))
    return output


def _preview_count(steps: int, chosen: options.Options) -> int | None:
    every = chosen.values["show_progress_every_n_steps"]
    if not chosen.values["live_previews_enable"] or not isinstance(every, int | float):
        return None
    return None if every < 1 else min(max(1, int(steps // every)), MOST_PREVIEWS)


def _hires(
    values: Mapping[str, Any], applied: Sequence[str], notes: list[Note]
) -> refinement_pb2.HiresPass:
    resampling, others = names.upscaler_of(values["hr_upscaler"], "hr_upscaler")
    notes += others
    strength = values["denoising_strength"]
    hires = refinement_pb2.HiresPass(
        strength=HIRES_STRENGTH if strength is None else strength,
        prompt=_prompt(values, "hr_prompt", applied, notes),
        negative_prompt=_prompt(values, "hr_negative_prompt", (), notes),
        resampling=resampling or refinement_pb2.HiresPass().resampling,
    )
    hires.width_px, hires.height_px = _hires_size(values)
    if values["hr_second_pass_steps"]:
        hires.step_count = values["hr_second_pass_steps"]
    return hires


def _hires_size(values: Mapping[str, Any]) -> tuple[int, int]:
    """Return the final size: of both sides, of one and the proportions, or by a factor."""
    width, height = values["width"], values["height"]
    wanted_width, wanted_height = values["hr_resize_x"], values["hr_resize_y"]
    if wanted_width and wanted_height:
        return wanted_width, wanted_height
    if wanted_width or wanted_height:
        factor = wanted_width / width if wanted_width else wanted_height / height
    else:
        factor = values["hr_scale"]
    return round(width * factor), round(height * factor)


def _with_pictures(order: Order, values: Mapping[str, Any]) -> Order:
    generation, notes = order.generation, list(order.notes)
    strength = values["denoising_strength"]
    generation.strength = max(strength, LEAST_STRENGTH)
    if strength < LEAST_STRENGTH:
        reason = "less would leave nothing to do"
        notes.append(_note("denoising_strength", "CLAMPED", strength, LEAST_STRENGTH, reason))
    tiled = (values["script_name"] or "").strip().lower() == SD_UPSCALE
    if tiled:
        generation.tiles.CopyFrom(_tiles(values["script_args"], notes))
    files = Fields({"init_images": values["init_images"]})
    first = files.files("init_images", urls=order.echo["urls"])[:1]
    files.check()
    if len(values["init_images"]) > 1:
        given = f"{len(values['init_images'])} images"
        reason = "a job starts from one image"
        notes.append(_note("init_images", "IGNORED", given, "the first", reason))
    mask, whole = values["mask"] if not tiled else None, True
    if values["mask"] and tiled:
        reason = "the script repaints every tile"
        notes.append(_note("mask", "IGNORED", "a mask", "", reason))
    if mask:
        whole = not values["inpaint_full_res"]
        generation.mask_treatment.CopyFrom(_treatment(values))
    size = (generation.width_px, generation.height_px)
    mode = values["resize_mode"]
    if mode == LATENT:
        reason = "the image is stretched before it is encoded"
        notes.append(_note("resize_mode", "TRANSLATED", LATENT, 0, reason))
    resize = _resize(mode, size) if whole and not tiled else None
    image = dataclasses.replace(first[0], role=InputImage.ROLE_INIT, resize=resize)
    masked = None
    if mask:
        rule = _mask(values, size if whole else None)
        masked = InputFile("mask", mask, mask=rule, may_be_url=order.echo["urls"])
    return dataclasses.replace(order, notes=notes, input_images=[image], mask=masked)


def _resize(mode: int, size: tuple[int, int]) -> storage_service_pb2.Resize | None:
    """Return what brings an init image to *size*; None where stretching is enough, or nothing."""
    if mode not in (CROP, FILL):
        return None
    width, height = size
    return storage_service_pb2.Resize(
        width_px=width, height_px=height, crop=mode == CROP, fill=mode == FILL, flatten=True
    )


def _mask(values: Mapping[str, Any], size: tuple[int, int] | None) -> MaskRule:
    """Say how a mask is meant; it is brought to *size*, if at all, as the init image is."""
    blur_x, blur_y = values["mask_blur_x"], values["mask_blur_y"]
    mode = values["resize_mode"]
    conversion = storage_service_pb2.MaskConversion(
        # Opaque is repainted here, where OpenAI repaints what is transparent.
        convention=mask_convention_pb2.MASK_CONVENTION_OPAQUE
        if values["mask_round"]
        else mask_convention_pb2.MASK_CONVENTION_OPAQUE_SOFT,
        invert=values["inpainting_mask_invert"] == 1,
        blur_x_px=values["mask_blur"] if blur_x is None else blur_x,
        blur_y_px=values["mask_blur"] if blur_y is None else blur_y,
    )
    if size and mode in (CROP, FILL):
        conversion.width_px, conversion.height_px = size
        conversion.crop, conversion.fill = mode == CROP, mode == FILL
    return MaskRule(conversion.convention, conversion=conversion)


def _treatment(values: Mapping[str, Any]) -> refinement_pb2.MaskTreatment:
    treatment = MaskTreatment(fill=FILLS[values["inpainting_fill"]])
    if values["inpaint_full_res"]:
        treatment.padding_px = values["inpaint_full_res_padding"]
    return treatment


def _tiles(arguments: Sequence[Any], notes: list[Note]) -> refinement_pb2.TiledPass:
    """Read the script's arguments: a text, the overlap, an upscaler, and a factor."""
    given = dict(zip(("info", "overlap", "upscaler", "factor"), arguments, strict=False))
    upscaler = given.get("upscaler")
    if isinstance(upscaler, int) and not isinstance(upscaler, bool):
        listed = ["None", *names.UPSCALERS]
        upscaler = listed[upscaler] if 0 <= upscaler < len(listed) else str(upscaler)
    fields = Fields({"script_args": None, **given})
    overlap = fields.integer("overlap", least=0, most=256)
    factor = fields.number("factor", least=1, most=8)
    fields.check()
    resampling, others = names.upscaler_of(str(upscaler or "None"), "script_args")
    notes += others
    return refinement_pb2.TiledPass(
        # Without an upscaler nothing is enlarged, and the tiles are drawn as they are.
        factor=1.0 if resampling is None else 2.0 if factor is None else factor,
        overlap_px=64 if overlap is None else overlap,
        resampling=resampling or refinement_pb2.TiledPass().resampling,
    )


def _floor(
    generation: generation_pb2.Generation, name: str, multiple: int, notes: list[Note]
) -> None:
    side = getattr(generation, name)
    used = max(multiple, side // multiple * multiple)
    if used != side:
        reason = f"the model draws multiples of {multiple}"
        notes.append(_note(name.removesuffix("_px"), "CLAMPED", side, used, reason))
        setattr(generation, name, used)


def _info(
    job: job_pb2.Job,
    descriptions: Sequence[image_description_pb2.DescribeImageResponse],
    values: Mapping[str, Any],
) -> dict[str, Any]:
    drawn = job.generation
    texts = [carried_by(description) for description in descriptions]
    said = parse(texts[0]) if texts else {}
    images = job.result.images
    seeds = [image.seed for image in images] or [drawn.seed]
    count = max(len(images), 1)
    subseed = values.get("subseed", -1)
    subseed = drawn.seed if subseed < 0 else subseed
    model = job.served_by or drawn.model
    # With the tags of its networks.
    prompt = said.get("Prompt", drawn.prompt)
    return {
        "prompt": prompt,
        "all_prompts": [prompt] * count,
        "negative_prompt": drawn.negative_prompt,
        "all_negative_prompts": [drawn.negative_prompt] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": subseed,
        "all_subseeds": [subseed + k for k in range(count)],
        "subseed_strength": 0,
        "width": images[0].width_px if images else drawn.width_px,
        "height": images[0].height_px if images else drawn.height_px,
        "sampler_name": said.get("Sampler", drawn.sampler),
        "cfg_scale": drawn.guidance_scale,
        "steps": drawn.step_count,
        "batch_size": values.get("batch_size", 1),
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": model.removeprefix("models/"),
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": _strength(drawn),
        "extra_generation_params": _extra(said),
        "index_of_first_image": 0,
        "infotexts": texts,
        "styles": values.get("styles") or [],
        "job_timestamp": job.create_time.ToDatetime().strftime("%Y%m%d%H%M%S"),
        "clip_skip": drawn.clip_skip or 1,
        "is_using_inpainting_conditioning": False,
        "version": VERSION,
    }


def _strength(drawn: generation_pb2.Generation) -> float | None:
    """Return how much of the image was drawn anew: of the init image, or by the second pass."""
    if drawn.HasField("strength"):
        return drawn.strength
    return drawn.hires.strength if drawn.HasField("hires") else None


def _extra(said: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in said.items() if key.startswith(EXTRA)}


def _note(parameter: str, treatment: str, requested: object, used: object, reason: str) -> Note:
    return Note(
        parameter=parameter[:100],
        treatment=Note.Treatment.Value(f"TREATMENT_{treatment}"),
        requested=str(requested)[:100],
        used=str(used)[:100],
        reason=reason,
    )
