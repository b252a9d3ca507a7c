"""Options: each key's own, laid over the defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.automatic1111 import names
from gateway.dialect import Answer, Call, Found, Preferences
from gateway.fields import Fields
from gateway.schemas import integer, optional, record, switch, text
from pictor.catalog.v1 import model_pb2
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import NotFound, invalid

DEFAULTS: dict[str, Any] = {
    "samples_save": True,
    "samples_format": "png",
    "jpeg_quality": 80,
    "save_images_add_number": True,
    "enable_pnginfo": True,
    "send_seed": True,
    "send_size": True,
    "CLIP_stop_at_last_layers": 1,
    "sd_vae": "Automatic",
    "sd_checkpoint_hash": "",
    "live_previews_enable": True,
    "show_progress_every_n_steps": 10,
    "show_progress_type": "Full",
    "eta_noise_seed_delta": 0,
    "api_enable_requests": True,
    "api_forbid_local_requests": True,
    "upscaler_for_img2img": None,
    "face_restoration_model": None,
    "return_grid": False,
}
# Keys that clients override without asking for anything that would be missed.
WITHOUT_EFFECT = ("sd_checkpoint_hash", "samples_save", "return_grid", "send_seed")
# Keys that say in which file a picture comes.
OF_FILES = ("samples_format", "jpeg_quality")
# SillyTavern takes a server that has it for another program.
NEVER_SHOWN = frozenset({"forge_preset"})
CLIP_SKIP = "CLIP_stop_at_last_layers"
MOST_LAYERS = 12
MOST_CHARS = 4_000
NAME_CHARS = 100

REPLY = record(
    {"sd_model_checkpoint": text("The title of the checkpoint that draws.")},
    [*DEFAULTS, "sd_model_checkpoint"],
    "Every option by its name.",
)
REQUEST = record(
    {
        "sd_model_checkpoint": optional(text("A title from the list of checkpoints.")),
        CLIP_SKIP: optional(integer(1, MOST_LAYERS)),
        "send_seed": optional(switch()),
    },
    about="The options that change, or all of them; null takes one back to its default.",
)


@dataclass(frozen=True)
class Options:
    """
    What applies to a caller.

    Attributes:
        values: Every option by name.
        model: The checkpoint that draws where a request names none; None where there is none.
    """

    values: Mapping[str, Any]
    model: model_pb2.Model | None


def current(choices: Mapping[str, Any], found: Found, preferences: Preferences) -> Options:
    """Return the caller's options."""
    chosen = str(choices.get("sd_model_checkpoint") or "")
    model = names.checkpoint(chosen, found.models) if chosen else None
    model = model or names.default_checkpoint(found, preferences.default_model)
    title = names.title(model) if model else ""
    return Options({**DEFAULTS, **choices, "sd_model_checkpoint": title}, model)


def takes_urls(chosen: Options) -> bool:
    """Whether an image may be named by its URL; storage goes to public addresses only."""
    return bool(chosen.values["api_enable_requests"])


def show(call: Call) -> Answer:
    """Write the caller's options."""
    return Answer(dict(current(call.found.choices, call.found, call.preferences).values))


def decode(call: Call) -> dict[str, Any]:
    """
    Read what is to change: a part of the options, or all of them with one changed.

    What is neither a number, a text, true nor false is passed over; a default is forgotten.

    Raises:
        NotFound: If there is no such checkpoint.
        InvalidRequest: If the body is not an object, or a text is too long.
    """
    Fields(call.body)
    changes: dict[str, Any] = {}
    for name, value in call.body.items():
        known = name in DEFAULTS or len(name) <= NAME_CHARS
        if not known or name in NEVER_SHOWN or isinstance(value, list | dict):
            continue
        if isinstance(value, str) and len(value) > MOST_CHARS:
            raise invalid(
                name, f"{name} has {len(value)} characters; at most {MOST_CHARS} are kept"
            )
        if name == CLIP_SKIP and not _is_layer(value):
            raise invalid(name, f"{name} {str(value)[:40]!r} is not 1 to {MOST_LAYERS}")
        changes[name] = None if name in DEFAULTS and value == DEFAULTS[name] else value
    if wanted := changes.get("sd_model_checkpoint"):
        model = names.checkpoint(str(wanted), call.found.models)
        if model is None:
            listed = names.names_of(names.served(call.found))
            raise NotFound(
                f"model {str(wanted)[:100]!r} not found; there are {listed}",
                reason=reasons.ERROR_REASON_MODEL_NOT_FOUND,
            )
        changes["sd_model_checkpoint"] = names.title(model)
    return changes


def _is_layer(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value in range(MOST_LAYERS + 1))
