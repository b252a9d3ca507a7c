"""
Reads models.toml: one entry a model, strictly.

What an entry may hold is in the tables below and in the fields of the messages Limits,
ParameterDefaults, Size and Checkpoint: an unknown key, an absent one, a wrong type, an id that two
models share and defaults that the limits forbid are each a CatalogError that names entry, key and
rule.
"""

import datetime as dt
import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf import descriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from pictor.catalog.v1 import model_pb2
from pictor.catalog.v1.model_pb2 import Model, ParameterSupport
from services.catalog.rules import PREFIX, CatalogError, check_model, check_unique

PACKAGED = pathlib.Path(__file__).with_name("models.toml")

OPERATIONS = {
    "text-to-image": model_pb2.OPERATION_TEXT_TO_IMAGE,
    "image-to-image": model_pb2.OPERATION_IMAGE_TO_IMAGE,
    "inpaint": model_pb2.OPERATION_INPAINT,
    "edit": model_pb2.OPERATION_EDIT,
}
# The fields of Generation that some public API documents.
PARAMETERS = (
    "prompt",
    "negative_prompt",
    "width_px",
    "height_px",
    "step_count",
    "guidance_scale",
    "seed",
    "image_count",
    "input_images",
    "mask",
    "strength",
    "sampler",
    "schedule",
)
TEXTS = ("name", "display_name", "owner", "family", "description", "license")
REQUIRED = (*TEXTS, "aliases", "created", "operations", "limits", "defaults", "parameters")
OPTIONAL = ("native_size", "checkpoint", "dtypes", "acceleration", "price_microcredits")
MOST_PRICE = 10**12
KINDS: dict[str, tuple[type, ...]] = {
    "a text": (str,),
    "a whole number": (int,),
    "a number": (int, float),
    "a date": (dt.date,),
    "a list": (list,),
    "a table": (dict,),
}
NUMBERS = {
    descriptor.FieldDescriptor.CPPTYPE_INT32: "a whole number",
    descriptor.FieldDescriptor.CPPTYPE_INT64: "a whole number",
    descriptor.FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    descriptor.FieldDescriptor.CPPTYPE_STRING: "a text",
}

M = TypeVar("M", bound=Message)


def read_models(path: pathlib.Path, default_price: int = 0) -> list[Model]:
    """
    Read a catalog's file.

    Args:
        path: Where it lies.
        default_price: Micro-credits for a megapixel and a step, of models that name no price.

    Returns:
        At least one model, in the order of the file.

    Raises:
        CatalogError: If the file cannot be read or an entry breaks a rule.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path}: {error}") from None
    check_keys(path.name, document, required=["models"])
    entries = typed(path.name, document, "models", "a list")
    if not entries:
        raise CatalogError(f"{path.name}: models is empty; give at least one [[models]]")
    models = [
        to_model(number, entry, default_price) for number, entry in enumerate(entries, start=1)
    ]
    check_unique(models)
    return models


def to_model(number: int, entry: Any, default_price: int = 0) -> Model:
    """
    Turn one entry into a message; *number* names an entry that has no name.

    Raises:
        CatalogError: If it breaks a rule.
    """
    if not isinstance(entry, dict):
        raise CatalogError(f"entry {number}: must be a table")
    where = f"model {entry['name']!r}" if entry.get("name") else f"entry {number}"
    check_keys(where, entry, required=REQUIRED, optional=OPTIONAL)
    texts = {key: typed(where, entry, key, "a text") for key in TEXTS}
    texts["name"] = PREFIX + identifier(where, "name", texts["name"])
    model = Model(
        **texts,
        aliases=[
            identifier(where, "aliases", alias) for alias in texts_of(where, entry, "aliases")
        ],
        operations=to_operations(where, texts_of(where, entry, "operations")),
        create_time=to_timestamp(typed(where, entry, "created", "a date")),
        limits=to_message(model_pb2.Limits, where, entry, "limits", complete=True),
        parameter_defaults=to_message(model_pb2.ParameterDefaults, where, entry, "defaults"),
        parameters=to_parameters(where, typed(where, entry, "parameters", "a table")),
        dtypes=texts_of(where, entry, "dtypes") if "dtypes" in entry else (),
        acceleration=texts_of(where, entry, "acceleration") if "acceleration" in entry else (),
    )
    model.price_microcredits = to_price(where, entry, default_price)
    if "checkpoint" in entry:
        model.checkpoint.CopyFrom(to_checkpoint(where, entry))
    if "native_size" in entry:
        native = to_message(model_pb2.Size, where, entry, "native_size", complete=True)
        model.native_size.CopyFrom(native)
    check_model(where, model)
    return model


def to_message(
    cls: type[M], where: str, entry: Mapping[str, Any], key: str, *, complete: bool = False
) -> M:
    """
    Fill a message from the table at *key*, whose keys are the message's fields.

    Args:
        cls: A message of numbers and texts.
        where: Names the entry in errors.
        entry: Holds the table.
        key: Where the table stands.
        complete: Every field must be given.
    """
    table = typed(where, entry, key, "a table")
    fields = cls.DESCRIPTOR.fields_by_name
    required = list(fields) if complete else []
    check_keys(f"{where}: {key}", table, required=required, optional=fields)
    values = {
        name: typed(f"{where}: {key}", table, name, NUMBERS[fields[name].cpp_type])
        for name in table
    }
    try:
        return cls(**values)
    except ValueError as error:
        raise CatalogError(f"{where}: {key}: {error}") from None


def to_operations(where: str, names: list[str]) -> list[model_pb2.Operation.ValueType]:
    """Turn names such as ``text-to-image`` into operations: at least one, none twice."""
    if not names or len(set(names)) != len(names):
        raise CatalogError(f"{where}: operations = {names}: must name at least one, and none twice")
    for name in names:
        if name not in OPERATIONS:
            raise CatalogError(
                f"{where}: operations: {name!r} is unknown; there are {', '.join(OPERATIONS)}"
            )
    return [OPERATIONS[name] for name in names]


def to_parameters(where: str, table: Mapping[str, Any]) -> list[ParameterSupport]:
    """Make the parameter table: what is neither required nor ignored is supported."""
    check_keys(f"{where}: parameters", table, optional=["required", "ignored"])
    required = texts_of(f"{where}: parameters", table, "required") if "required" in table else []
    ignored = (
        typed(f"{where}: parameters", table, "ignored", "a table") if "ignored" in table else {}
    )
    check_keys(f"{where}: parameters.required", dict.fromkeys(required), optional=PARAMETERS)
    check_keys(f"{where}: parameters.ignored", ignored, optional=PARAMETERS)
    for name in ignored:
        if name in required:
            raise CatalogError(f"{where}: parameters: {name} is both required and ignored")
        if not typed(f"{where}: parameters.ignored", ignored, name, "a text"):
            raise CatalogError(f"{where}: parameters.ignored.{name}: must give the reason")
    return [to_parameter(name, required, ignored) for name in PARAMETERS]


def to_parameter(name: str, required: list[str], ignored: Mapping[str, str]) -> ParameterSupport:
    """Make one line of the parameter table."""
    if name in ignored:
        return ParameterSupport(
            parameter=name, level=ParameterSupport.LEVEL_IGNORED, reason=ignored[name]
        )
    needed = name in required
    level = ParameterSupport.LEVEL_REQUIRED if needed else ParameterSupport.LEVEL_SUPPORTED
    return ParameterSupport(parameter=name, level=level, reason="must be sent" if needed else "")


def to_checkpoint(where: str, entry: Mapping[str, Any]) -> model_pb2.Checkpoint:
    """Read where the weights come from: one place, and none outside of the model folders."""
    checkpoint = to_message(model_pb2.Checkpoint, where, entry, "checkpoint")
    if len(entry["checkpoint"]) != 1:
        raise CatalogError(f"{where}: checkpoint: must give one of folder, file and hub_repository")
    place = pathlib.PurePosixPath(next(iter(entry["checkpoint"].values())))
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise CatalogError(f"{where}: checkpoint = {str(place)!r}: must lie below a model folder")
    return checkpoint


def to_price(where: str, entry: Mapping[str, Any], default_price: int) -> int:
    """Read what drawing costs: micro-credits for a megapixel and a step."""
    if "price_microcredits" not in entry:
        return default_price
    price: int = typed(where, entry, "price_microcredits", "a whole number")
    if not 0 <= price <= MOST_PRICE:
        raise CatalogError(f"{where}: price_microcredits = {price}: must be 0 to {MOST_PRICE}")
    return price


def to_timestamp(day: dt.date) -> Timestamp:
    """Return the first moment of a day in UTC."""
    timestamp = Timestamp()
    timestamp.FromJsonString(f"{day:%Y-%m-%d}T00:00:00Z")
    return timestamp


def check_keys(
    where: str,
    table: Mapping[str, Any],
    *,
    required: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> None:
    """Insist that a table has all required keys and no unknown one."""
    known = [*required, *optional]
    for key in table:
        if key not in known:
            raise CatalogError(f"{where}: unknown key {key!r}; there are {', '.join(known)}")
    for key in required:
        if key not in table:
            raise CatalogError(f"{where}: {key} is missing")


def typed(where: str, table: Mapping[str, Any], key: str, kind: str) -> Any:
    """Return the value of a key, which must be of a kind, e.g. ``a whole number``."""
    value = table[key]
    # A bool is an int to Python, and a moment is a date; neither is to a reader.
    if isinstance(value, (bool, dt.datetime)) or not isinstance(value, KINDS[kind]):
        raise CatalogError(f"{where}: {key} = {value!r}: must be {kind}")
    return value


def texts_of(where: str, table: Mapping[str, Any], key: str) -> list[str]:
    """Return the value of a key, which must be a list of texts."""
    values = typed(where, table, key, "a list")
    if not all(isinstance(value, str) for value in values):
        raise CatalogError(f"{where}: {key} = {values!r}: must be a list of texts")
    return list(values)


def identifier(where: str, key: str, text: str) -> str:
    """Return an id: not empty, without blanks around it, and without the prefix of the name."""
    if not text or text != text.strip() or text.startswith(PREFIX):
        raise CatalogError(
            f"{where}: {key}: the id {text!r} must not be empty, have blanks around it,"
            f" or begin with {PREFIX}"
        )
    return text
