"""
The fields of txt2img and img2img, each with its kind and its default.

AUTOMATIC1111 is lenient: null is the default, a switch may be 0 or 1, a number may be written in
quotes, and what it does not know it passes over. The answer repeats every field as it was read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway import schemas
from gateway.automatic1111.infotext import parse
from gateway.fields import Fields, parsed_number
from gateway.schemas import Schema

MAX_SIDE_PX = 16_384
MAX_SEED = 2**32 - 1

Reader = Callable[[Fields, str], Any]


@dataclass(frozen=True)
class Parameter:
    """
    One field.

    Attributes:
        read: Takes its value from the fields.
        schema: Describes its values; null is always one.
        default: Stands for what is absent or null.
        numeric: A text in quotes is read as a number, true and false as 1 and 0.
        without_effect: The values, besides the default, that ask for nothing. Set where nothing
            else than these has an effect here: other values are noted as ignored.
    """

    read: Reader
    schema: Schema
    default: Any = None
    numeric: bool = False
    without_effect: tuple[Any, ...] | None = None


def text(default: str | None = "", **options: Any) -> Parameter:
    """Make a field that holds a text."""
    return Parameter(Fields.text, schemas.text(), default, **options)


def image() -> Parameter:
    """Make a field that holds a picture, which is longer than any text."""

    def read(fields: Fields, name: str) -> Any:
        value = fields.value(name)
        if value is None or isinstance(value, str):
            return value
        fields.blame(name, f"{name} must be an image in base64")
        return None

    return Parameter(read, schemas.image())


def prompt() -> Parameter:
    """Make a field that holds a prompt."""
    return Parameter(Fields.prompt, schemas.text(), "")


def name(**options: Any) -> Parameter:
    """Make a field that names something."""
    return Parameter(Fields.name, schemas.text(), None, **options)


def integer(default: int | None, least: int, most: int, **options: Any) -> Parameter:
    """Make a field that holds a whole number."""
    return Parameter(
        lambda fields, name: fields.integer(name, least=least, most=most),
        schemas.integer(least, most),
        default,
        numeric=True,
        **options,
    )


def number(
    default: float | None = None, least: float = 0, most: float = 1_000, **options: Any
) -> Parameter:
    """Make a field that holds a number."""
    return Parameter(
        lambda fields, name: fields.number(name, least=least, most=most),
        schemas.number(least, most),
        default,
        numeric=True,
        **options,
    )


def _switch(fields: Fields, name: str) -> bool | None:
    value = fields.value(name)
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    return fields.switch(name)


def switch(default: bool | None = False, **options: Any) -> Parameter:
    """Make a field that is true or false."""
    return Parameter(_switch, schemas.switch(), default, **options)


def things(kind: type, default: Any, **options: Any) -> Parameter:
    """Make a field that holds a list or an object."""

    def read(fields: Fields, name: str) -> Any:
        value = fields.value(name)
        if value is None or isinstance(value, kind):
            return value
        word = "a list" if kind is list else "an object"
        fields.blame(name, f"{name} must be {word}")
        return None

    schema = schemas.listed({}) if kind is list else schemas.record({})
    return Parameter(read, schema, default, **options)


SIDE = integer(512, 1, MAX_SIDE_PX)
SEED = integer(-1, -1, MAX_SEED)

COMMON: dict[str, Parameter] = {
    "prompt": prompt(),
    "negative_prompt": prompt(),
    "styles": things(list, None, without_effect=([],)),
    "seed": SEED,
    "subseed": integer(-1, -1, MAX_SEED),
    "subseed_strength": number(0, 0, 1, without_effect=()),
    "seed_resize_from_h": integer(-1, -1, MAX_SIDE_PX, without_effect=(0,)),
    "seed_resize_from_w": integer(-1, -1, MAX_SIDE_PX, without_effect=(0,)),
    "sampler_name": name(),
    "sampler_index": name(),
    "scheduler": name(),
    "batch_size": integer(1, 1, 1_000),
    "n_iter": integer(1, 1, 1_000),
    "steps": integer(20, 1, 1_000),
    "cfg_scale": number(7.0, 0, 100),
    "width": SIDE,
    "height": SIDE,
    "restore_faces": switch(None, without_effect=(False,)),
    "tiling": switch(None, without_effect=(False,)),
    "do_not_save_samples": switch(),
    "do_not_save_grid": switch(),
    # What AUTOMATIC1111 itself takes where nothing is given asks for nothing.
    "eta": number(None, without_effect=(0.0, 1.0)),
    "s_churn": number(None, without_effect=(0.0,)),
    "s_tmin": number(None, without_effect=(0.0,)),
    "s_tmax": number(None, most=1e9, without_effect=(0.0,)),
    "s_noise": number(None, without_effect=(1.0,)),
    "s_min_uncond": number(None, without_effect=(0.0,)),
    "denoising_strength": number(None, 0, 1),
    "override_settings": things(dict, {}),
    "override_settings_restore_afterwards": switch(True),
    "refiner_checkpoint": name(without_effect=("", "None")),
    "refiner_switch_at": number(None),
    "disable_extra_networks": switch(),
    "firstpass_image": text(None, without_effect=("",)),
    "comments": things(dict, None),
    "script_name": name(),
    "script_args": things(list, []),
    "alwayson_scripts": things(dict, {}),
    "send_images": switch(True),
    "save_images": switch(),
    "force_task_id": text(None),
    "infotext": text(None),
    "model": name(),
}
TXT2IMG = {
    **COMMON,
    "enable_hr": switch(),
    "firstphase_width": integer(0, 0, MAX_SIDE_PX),
    "firstphase_height": integer(0, 0, MAX_SIDE_PX),
    "hr_scale": number(2.0, 1, 8),
    "hr_upscaler": text(None),
    "hr_second_pass_steps": integer(0, 0, 1_000),
    "hr_resize_x": integer(0, 0, MAX_SIDE_PX),
    "hr_resize_y": integer(0, 0, MAX_SIDE_PX),
    "hr_checkpoint_name": name(without_effect=("", "Use same checkpoint")),
    "hr_sampler_name": name(without_effect=("", "Use same sampler")),
    "hr_scheduler": name(without_effect=("", "Use same scheduler", "automatic", "Automatic")),
    "hr_prompt": prompt(),
    "hr_negative_prompt": prompt(),
}
IMG2IMG = {
    **COMMON,
    "denoising_strength": number(0.75, 0, 1),
    "init_images": things(list, None),
    "resize_mode": integer(0, 0, 3),
    # Only models that were trained on instructions read it; webuiapi always sends 1.5.
    "image_cfg_scale": number(None, without_effect=(0.0, 1.5)),
    "mask": image(),
    "mask_blur": integer(4, 0, 1_000),
    "mask_blur_x": integer(None, 0, 1_000),
    "mask_blur_y": integer(None, 0, 1_000),
    "mask_round": switch(True),
    "inpainting_fill": integer(0, 0, 3),
    "inpaint_full_res": switch(True),
    "inpaint_full_res_padding": integer(0, 0, 1_024),
    "inpainting_mask_invert": integer(0, 0, 1),
    "initial_noise_multiplier": number(None, without_effect=(1.0,)),
    "latent_mask": text(None, without_effect=("",)),
    "include_init_images": switch(),
}


# What an infotext calls the fields.
OF_INFOTEXT = {
    "Prompt": "prompt",
    "Negative prompt": "negative_prompt",
    "Steps": "steps",
    "Sampler": "sampler_name",
    "Schedule type": "scheduler",
    "CFG scale": "cfg_scale",
    "Seed": "seed",
    "Size-1": "width",
    "Size-2": "height",
    "Denoising strength": "denoising_strength",
    "Hires upscale": "hr_scale",
    "Hires steps": "hr_second_pass_steps",
    "Hires upscaler": "hr_upscaler",
}


def read(body: Any, table: Mapping[str, Parameter]) -> tuple[Fields, dict[str, Any]]:
    """
    Read every field of a table.

    Returns:
        The fields, whose ``check`` tells what was wrong, and each value by name.

    Raises:
        InvalidRequest: If the body is not an object.
    """
    Fields(body)
    # By name, one after the other: what nobody reads is noted as ignored.
    given = {key: body[key] for key in table if body.get(key) is not None}
    given = {**_of_infotext(given.get("infotext"), table), **given}
    lenient = {key: _lenient(value, table[key]) for key, value in given.items()}
    fields = Fields(lenient)
    values = {}
    for key, parameter in table.items():
        value = parameter.read(fields, key)
        values[key] = parameter.default if value is None else value
    return fields, values


def _of_infotext(infotext: Any, table: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the fields that an infotext fills where the request leaves them out."""
    told = parse(infotext) if isinstance(infotext, str) else {}
    filled: dict[str, Any] = {OF_INFOTEXT[key]: told[key] for key in OF_INFOTEXT if told.get(key)}
    if "hr_scale" in filled:
        filled["enable_hr"] = True
    return {key: value for key, value in filled.items() if key in table}


def described(table: Mapping[str, Parameter], required: Sequence[str] = ()) -> Schema:
    """Describe a body; what is not of these fields is passed over."""
    return schemas.record(
        {
            key: one.schema if key in required else schemas.optional(one.schema)
            for key, one in table.items()
        },
        required,
    )


def ignored(values: Mapping[str, Any], table: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return what was asked for and has no effect here."""
    return {
        key: values[key]
        for key, parameter in table.items()
        if parameter.without_effect is not None
        and values[key] != parameter.default
        and values[key] not in parameter.without_effect
    }


def _lenient(value: Any, parameter: Parameter) -> Any:
    if not parameter.numeric:
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return parsed_number(value) if value.strip() else None
    return value
