"""AUTOMATIC1111's names for checkpoints, samplers, schedulers and upscalers, and what they mean."""

import math
import re
from collections.abc import Iterable, Sequence

from gateway.dialect import Found
from pictor.catalog.v1 import model_pb2
from pictor.inference.v1 import generation_pb2, job_pb2, sampler_pb2
from pictor.storage.v1 import resampling_pb2

Note = job_pb2.ParameterNote

# The model that the relay's document names as the default.
DOCUMENTED_MODEL = "Realistic_Vision_V5.1.safetensors"
AUTOMATIC = "automatic"
UPSCALERS = {
    "Lanczos": resampling_pb2.RESAMPLING_LANCZOS,
    "Nearest": resampling_pb2.RESAMPLING_NEAREST,
}
# Their meaning here is the same resampling, of pixels and not of latents.
LATENT_MODES = {
    "Latent": resampling_pb2.RESAMPLING_BILINEAR,
    "Latent (antialiased)": resampling_pb2.RESAMPLING_BILINEAR,
    "Latent (bicubic)": resampling_pb2.RESAMPLING_BICUBIC,
    "Latent (bicubic antialiased)": resampling_pb2.RESAMPLING_BICUBIC,
    "Latent (nearest)": resampling_pb2.RESAMPLING_NEAREST,
    "Latent (nearest-exact)": resampling_pb2.RESAMPLING_NEAREST,
}
RESAMPLING_NAMES = {
    resampling_pb2.RESAMPLING_LANCZOS: "Lanczos",
    resampling_pb2.RESAMPLING_NEAREST: "Nearest",
    resampling_pb2.RESAMPLING_BILINEAR: "bilinear",
    resampling_pb2.RESAMPLING_BICUBIC: "bicubic",
}
_HASH = re.compile(r"\s*\[[0-9a-f]{8,64}\]\s*$", re.IGNORECASE)
_ENDING = re.compile(r"\.(safetensors|ckpt|pt)$", re.IGNORECASE)
# No title is longer. Overrides may hold any text, which patterns must not walk through.
MOST_TITLE_CHARS = 400
# What the suite takes of adapters; see the comment of Generation.loras.
MAX_ADAPTERS = 8
MAX_WEIGHT = 2.0
# A tag goes with the space before it.
_NETWORK = re.compile(r" ?<(lora|lyco|hypernet):([^<:>]*)((?::[^<:>]*)*)>", re.IGNORECASE)
_BEGINNING = re.compile(r"(?<!<)<+(?=(?:lora|lyco|hypernet):)", re.IGNORECASE)
_ADAPTER = re.compile(r"[^./\\:<>\x00-\x1f\x7f][^/\\:<>\x00-\x1f\x7f]{0,127}")


def title(model: model_pb2.Model) -> str:
    """Return what clients choose a model by; its weights' hash is not known here."""
    return model.name.removeprefix("models/")


def stem(model: model_pb2.Model) -> str:
    """Return AUTOMATIC1111's ``model_name``."""
    return _ENDING.sub("", title(model)).replace("/", "_")


def checkpoint(name: str, models: Iterable[model_pb2.Model]) -> model_pb2.Model | None:
    """Find a model by its title, with or without hash and ending, its stem, or another name."""
    if len(name) > MOST_TITLE_CHARS:
        return None
    wanted = _plain(name)
    for exact in (True, False):
        for model in models:
            names = [title(model), stem(model), *model.aliases]
            short = [one.rpartition("/")[2] for one in names]
            if wanted in map(_plain, names if exact else short):
                return model
    return None


def served(found: Found) -> list[model_pb2.Model]:
    """Return the models that can draw now, those that draw from a prompt first."""
    available = {status.model for status in found.serving if status.available}
    models = [model for model in found.models if model.name in available]
    return sorted(
        models, key=lambda model: model_pb2.OPERATION_TEXT_TO_IMAGE not in model.operations
    )


def default_checkpoint(found: Found, preferred: str) -> model_pb2.Model | None:
    """Return the model that draws where nobody chose: the preferred one, else the first served."""
    candidates = served(found)
    wanted = checkpoint(preferred, found.models) if preferred else None
    if wanted:
        return wanted
    return candidates[0] if candidates else None


def sampler_of(
    sampler: str | None, scheduler: str | None, found: Found
) -> tuple[str | None, str | None, list[Note]]:
    """
    Return the sampler and the schedule that the names mean, and notes where they mean another.

    An unknown sampler is silently another one in AUTOMATIC1111; here it is the model's own, and
    the receipt says so.
    """
    notes: list[Note] = []
    base, suffix = _split(sampler or "", found)
    known = {one.name.lower(): one for one in found.samplers}
    known |= {one.scheduler.lower(): one for one in reversed(found.samplers)}
    chosen = known.get(base.lower())
    if base and chosen is None and base.lower() != AUTOMATIC:
        notes.append(_other("sampler_name", sampler or "", "the model's own", "there is no such"))
    wanted = scheduler if scheduler and _schedule(scheduler, found) != AUTOMATIC else suffix
    schedule = _schedule(wanted, found) if wanted else AUTOMATIC
    if schedule is None:
        notes.append(_other("scheduler", wanted, AUTOMATIC, "there is no such"))
    elif chosen and schedule not in chosen.schedules:
        notes.append(_other("scheduler", wanted, AUTOMATIC, f"{chosen.name} has no such schedule"))
        schedule = None
    name = chosen.name if chosen else None
    return name, None if schedule in (None, AUTOMATIC) else schedule, notes


def upscaler_of(
    name: str | None, parameter: str
) -> tuple[resampling_pb2.Resampling.ValueType | None, list[Note]]:
    """Return how an upscaler's name resamples; None for ``None``, which enlarges nothing."""
    given = (name or "Latent").strip()
    if given.lower() == "none":
        return None, []
    exact = {one.lower(): value for one, value in UPSCALERS.items()}
    if given.lower() in exact:
        return exact[given.lower()], []
    latent = {one.lower(): value for one, value in LATENT_MODES.items()}
    if given.lower() in latent:
        used = latent[given.lower()]
        reason = "pixels are resampled, not latents"
        return used, [_other(parameter, given, RESAMPLING_NAMES[used], reason)]
    return resampling_pb2.RESAMPLING_LANCZOS, [
        _other(parameter, given, "Lanczos", "there is no such upscaler here")
    ]


def without_networks(prompt: str) -> tuple[str, list[str]]:
    """Take ``<lora:name:weight>`` and its like out of a prompt; return it, and each of them."""
    tags = [match[0].strip() for match in _NETWORK.finditer(prompt)]
    without = _NETWORK.sub("", prompt).strip() if tags else prompt
    # What closes around a tag that is gone is none itself; it stays as words.
    return _BEGINNING.sub("", without) if _NETWORK.search(without) else without, tags


def loras_of(tags: Iterable[str]) -> tuple[list[generation_pb2.Lora], list[Note]]:
    """
    Return the adapters that tags name, and notes on what none can be made of.

    AUTOMATIC1111 draws without a network that it does not find; nothing here is an error either.
    """
    found: dict[str, generation_pb2.Lora] = {}
    notes: list[Note] = []
    for tag in tags:
        match = _NETWORK.fullmatch(tag)
        kind, name, values = (match[1].lower(), match[2].strip(), match[3]) if match else ("",) * 3
        weight = _weight(values)
        if kind == "hypernet":
            notes.append(_passed_over(tag, "this server applies no hypernetworks"))
        elif weight is None or not _ADAPTER.fullmatch(name):
            notes.append(_passed_over(tag, "it has no name and weight that can be read"))
        elif len(found) == MAX_ADAPTERS and name not in found:
            notes.append(_passed_over(tag, f"a request takes at most {MAX_ADAPTERS} adapters"))
        else:
            used = min(max(weight, -MAX_WEIGHT), MAX_WEIGHT)
            if used != weight:
                rule = f"weights are {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
                notes.append(_clamped(tag, f"<lora:{name}:{used:g}>", rule))
            # Of several tags of one name the last one counts.
            found[name] = generation_pb2.Lora(adapter=name, weight=used)
    return list(found.values()), notes


def _weight(values: str) -> float | None:
    """Return the weight of ``:0.8``, ``:0.8:0.5`` or ``:te=0.5:unet=0.8``; None for no number."""
    given = [value.strip() for value in values.split(":")[1:]]
    named = dict(value.split("=", 1) for value in given if "=" in value)
    plain = [value for value in given if "=" not in value]
    text = plain[0] if plain else named.get("unet", named.get("te", "1"))
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if math.isfinite(weight) else None


def formats(name: str) -> generation_pb2.Output.Format.ValueType:
    """Return the file format that ``samples_format`` names; PNG for one that is not written."""
    known = {
        "jpg": generation_pb2.Output.FORMAT_JPEG,
        "jpeg": generation_pb2.Output.FORMAT_JPEG,
        "webp": generation_pb2.Output.FORMAT_WEBP,
    }
    return known.get(name.lower(), generation_pb2.Output.FORMAT_PNG)


def _plain(name: str) -> str:
    return _ENDING.sub("", _HASH.sub("", name.strip())).lower()


def _split(sampler: str, found: Found) -> tuple[str, str]:
    lower = sampler.lower()
    if lower not in (one.name.lower() for one in found.samplers):
        for schedule in found.schedules:
            for ending in (schedule.label, schedule.name, *aliases(schedule)):
                if lower.endswith(f" {ending.lower()}"):
                    return sampler[: -len(ending) - 1].rstrip(), ending
    return sampler.strip(), ""


def aliases(schedule: sampler_pb2.Schedule) -> list[str]:
    """Return a schedule's further names: older clients write its label in one word."""
    joined = schedule.label.replace(" ", "")
    return [] if joined == schedule.label else [joined]


def _schedule(name: str, found: Found) -> str | None:
    wanted = _letters(name)
    for schedule in found.schedules:
        if wanted in (_letters(schedule.name), _letters(schedule.label)):
            return schedule.name
    return AUTOMATIC if wanted in ("", "usesamescheduler") else None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _passed_over(tag: str, reason: str) -> Note:
    return Note(
        parameter="prompt",
        treatment=Note.TREATMENT_IGNORED,
        requested=tag[:100],
        reason=reason,
    )


def _clamped(tag: str, used: str, reason: str) -> Note:
    return Note(
        parameter="prompt",
        treatment=Note.TREATMENT_CLAMPED,
        requested=tag[:100],
        used=used[:100],
        reason=reason,
    )


def _other(parameter: str, requested: str, used: str, reason: str) -> Note:
    return Note(
        parameter=parameter,
        treatment=Note.TREATMENT_TRANSLATED,
        requested=requested[:100],
        used=used,
        reason=reason,
    )


def names_of(models: Sequence[model_pb2.Model]) -> str:
    """List a few titles, for an error."""
    listed = ", ".join(title(model) for model in models[:10])
    return listed or "none"
