"""What clients list before they ask for anything; lists of what this server lacks are empty."""

from typing import Any

from gateway.automatic1111 import names
from gateway.automatic1111.drawing import SD_UPSCALE
from gateway.dialect import Answer, Call
from gateway.schemas import Schema, answered, listed, number, optional, record, switch, text

# Without torch and without the device at hand, nothing is known of either.
UNKNOWN_MEMORY = {"error": "the gateway does not run on the device"}

EMPTY = (
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "sd-vae",
    "sd-modules",
    "extensions",
)
_NAME = {"name": text()}
_ANY = {"description": "Whatever it is; null is possible."}
SAMPLERS = listed(answered({**_NAME, "aliases": listed(text()), "options": record({})}))
SCHEDULERS = listed(
    answered(
        {
            **_NAME,
            "label": text(),
            "aliases": optional(listed(text())),
            "default_rho": number(),
            "need_inner_model": switch(),
        }
    )
)
UPSCALERS = listed(
    answered(
        {
            **_NAME,
            **dict.fromkeys(("model_name", "model_path", "model_url"), optional(text())),
            "scale": number(),
        }
    )
)
LATENT_MODES = listed(answered(_NAME))
CHECKPOINTS = listed(
    answered(
        {
            "title": text("What chooses it in options and requests."),
            "model_name": text(),
            "hash": optional(text()),
            "sha256": optional(text()),
            "filename": text(),
            "config": optional(text()),
        }
    )
)
SCRIPTS = answered({page: listed(text()) for page in ("txt2img", "img2img")})
SCRIPT_INFO = listed(
    answered(
        {
            **_NAME,
            "is_alwayson": switch(),
            "is_img2img": switch(),
            "args": listed(
                answered(
                    {
                        "label": text(),
                        **dict.fromkeys(("value", "minimum", "maximum", "step", "choices"), _ANY),
                    }
                )
            ),
        }
    )
)
EMBEDDINGS = answered({"loaded": record({}), "skipped": record({})})
LORAS = listed(
    answered({**_NAME, "alias": text(), "path": text("A file's name."), "metadata": record({})})
)
FLAGS = record({}, about="Switches by their names.")
MEMORY = answered({"ram": record({}), "cuda": record({})})
NOTHING = listed({}, "Always empty: this server has none.", maxItems=0)
NULL: Schema = {"type": "null"}
DONE = answered({})
REFRESHES = ("refresh-checkpoints", "refresh-vae", "refresh-embeddings", "refresh-loras")


def samplers(call: Call) -> Answer:
    """List the samplers."""
    return Answer(
        [
            {"name": one.name, "aliases": [one.scheduler], "options": {}}
            for one in call.found.samplers
        ]
    )


def schedulers(call: Call) -> Answer:
    """List the schedules."""
    return Answer(
        [
            {
                "name": one.name,
                "label": one.label,
                "aliases": names.aliases(one) or None,
                "default_rho": -1.0,
                "need_inner_model": False,
            }
            for one in call.found.schedules
        ]
    )


def upscalers(_call: Call) -> Answer:
    """List the upscalers; SillyTavern puts the latent ones behind the first, which is None."""
    return Answer(
        [
            {
                "name": name,
                "model_name": None,
                "model_path": None,
                "model_url": None,
                "scale": 4,
            }
            for name in ("None", *names.UPSCALERS)
        ]
    )


def latent_upscale_modes(_call: Call) -> Answer:
    """List the latent upscalers."""
    return Answer([{"name": name} for name in names.LATENT_MODES])


def sd_models(call: Call) -> Answer:
    """List the checkpoints that can draw now; their hashes are not known here."""
    return Answer(
        [
            {
                "title": names.title(model),
                "model_name": names.stem(model),
                "hash": None,
                "sha256": None,
                "filename": names.title(model),
                "config": None,
            }
            for model in names.served(call.found)
        ]
    )


def scripts(_call: Call) -> Answer:
    """List the scripts by the page on which they are."""
    return Answer({"txt2img": [], "img2img": [SD_UPSCALE]})


def script_info(_call: Call) -> Answer:
    """Describe the scripts and their arguments."""
    choices = ["None", *names.UPSCALERS]
    arguments = [
        _argument("", ""),
        _argument("Tile overlap", 64, minimum=0, maximum=256, step=16),
        _argument("Upscaler", "None", choices=choices),
        _argument("Scale Factor", 2.0, minimum=1.0, maximum=4.0, step=0.05),
    ]
    script = {"name": SD_UPSCALE, "is_alwayson": False, "is_img2img": True, "args": arguments}
    return Answer([script])


def embeddings(call: Call) -> Answer:
    """List the embeddings by their words; what they hold is known where they are used."""
    unknown = {
        "step": None,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
        "shape": 0,
        "vectors": 0,
    }
    return Answer({"loaded": dict.fromkeys(call.found.embeddings, unknown), "skipped": {}})


def loras(call: Call) -> Answer:
    """List the adapters, by the names that prompts take."""
    return Answer(
        [
            {"name": name, "alias": name, "path": f"{name}.safetensors", "metadata": {}}
            for name in call.found.adapters
        ]
    )


def cmd_flags(_call: Call) -> Answer:
    """List what would be launch flags."""
    return Answer({"api": True, "nowebui": True, "api_server_stop": False, "listen": True})


def memory(_call: Call) -> Answer:
    """Say what is known of the memory."""
    return Answer({"ram": UNKNOWN_MEMORY, "cuda": UNKNOWN_MEMORY})


def nothing(_call: Call) -> Answer:
    """Answer with an empty list."""
    return Answer([])


def null(_call: Call) -> Answer:
    """Answer that it is done, with nothing to say."""
    return Answer(None)


def done(_call: Call) -> Answer:
    """Answer that it is done, with an empty object."""
    return Answer({})


def _argument(label: str, value: Any, **given: Any) -> dict[str, Any]:
    limits = dict.fromkeys(("minimum", "maximum", "step", "choices"))
    return {"label": label, "value": value, **limits, **given}
