"""
Single .safetensors files: which parts they hold, and from where the others come.

diffusers converts the tensors' names. What it would ask of a hub, the configs and the tokenizers,
comes from the layouts and from this machine: first from the folder beside the file that has its
name, then from the other checkpoints.
"""

import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import diffusers
import torch
import transformers

from services.inference.worker.checkpoints import INDEX, check_files, others, unreadable
from services.inference.worker.layouts import Layout, Part, layout_of, layouts
from services.inference.worker.tensor_files import read_header
from services.rpc.errors import Internal

# Embeddings have as many rows as the vocabulary has tokens, or a few more, to make a round number.
SPARE_ROWS = 128
# How the scales of quantised weights are named, which no converter applies.
SCALES = ("scaled_fp8", "scale_weight", "weight_scale")

# Reads a folder in diffusers' format, but the parts that are named.
Lend = Callable[[pathlib.Path, Sequence[str]], Any]


class SingleFile:
    """
    A .safetensors file that holds a model, or the part that makes it what it is.

    Args:
        model: Its name in the catalog, for errors.
        place: The file; its content has been checked.
        folders: The model folders, where other checkpoints are.
    """

    def __init__(
        self, model: str, place: pathlib.Path, folders: Sequence[pathlib.Path] = ()
    ) -> None:
        self._model = model
        self._place = place
        self._beside = place.with_suffix("")
        self._folders = folders or (place.parent,)
        self._tensors = read_header(place)
        self._layout = self._require_layout()

    def read(self, cls: Any, options: Mapping[str, Any], lend: Lend) -> Any:
        """
        Read the file as a pipeline.

        Args:
            cls: The pipeline's class.
            options: Of its ``from_single_file``: dtype, local_files_only; a part that is None is
                left out.
            lend: Reads the parts that the file lacks from another checkpoint.

        Raises:
            Internal: With WEIGHTS_UNREADABLE, if a part is missing here, and says which.
        """
        if self._beside.is_dir():
            check_files(self._beside, self._model)
        left_out = {name for name, value in options.items() if value is None}
        wanted = set(cls._get_signature_keys(cls)[0]) - left_out
        held = {name: part for name, part in self._layout.parts.items() if self._holds(part)}
        self._require_use(cls, wanted, held)
        made = {n for n, p in self._layout.parts.items() if p.is_tokenizer or p.is_scheduler}
        lender, lent = None, None
        if lacking := wanted - set(held) - made:
            lender = self._lender(cls, lacking)
            lent = lend(lender, tuple(held))
        with tempfile.TemporaryDirectory() as folder:
            self._write_configs(pathlib.Path(folder), cls, held, lender)
            try:
                pipeline = self._convert(cls, {**options, "config": folder}, wanted, lent)
            except NotImplementedError as error:  # What the file lacks was never given memory.
                raise self._unreadable("it lacks tensors of the parts that it holds") from error
        self._require_whole(pipeline)
        return pipeline

    def _convert(self, cls: Any, options: Mapping[str, Any], wanted: set[str], lent: Any) -> Any:
        theirs = lent.components if lent else {}
        parts = {name: part for name, part in theirs.items() if part is not None}
        parts |= self._small_parts(wanted, parts)
        if not lent or hasattr(cls, "from_single_file"):
            return cls.from_single_file(str(self._place), **{**options, **parts})
        name = self._layout.first
        first = getattr(diffusers, self._layout.parts[name].class_name)
        known = {key: options[key] for key in ("config", "dtype", "local_files_only")}
        parts[name] = first.from_single_file(str(self._place), subfolder=name, **known)
        lent.register_modules(**parts)
        return lent

    def _require_layout(self) -> Layout:
        if any(name.endswith(SCALES) for name in self._tensors):
            raise self._unreadable("its weights are scaled to fewer bits; take the plain ones")
        found = layout_of(self._tensors)
        if not found:
            known = ", ".join(layouts())
            raise self._unreadable(
                f"its tensors are not named as those of any known model ({known}); put its folder"
                " in diffusers' format in its place"
            )
        return found

    def _require_use(self, cls: Any, wanted: set[str], held: Mapping[str, Part]) -> None:
        for name in held:
            if name not in wanted:
                raise self._unreadable(f"it holds a {name}, which {cls.__name__} does not use")

    def _holds(self, part: Part) -> bool:
        return bool(part.prefixes) and part.is_in(self._tensors)

    def _small_parts(self, wanted: set[str], lent: Mapping[str, Any]) -> dict[str, Any]:
        """Make what has no weights."""
        parts = {}
        for name, part in self._layout.parts.items():
            if name in wanted and part.is_scheduler:
                config = self._config(name) or {}
                made = getattr(diffusers, config.get("_class_name", part.class_name))
                parts[name] = made.from_config(config)
            elif name in wanted and part.is_tokenizer and name not in lent:
                parts[name] = self._tokenizer(name, part)
        return parts

    def _config(self, name: str) -> dict[str, Any] | None:
        for file in ("config.json", "scheduler_config.json"):
            own = self._beside / name / file
            if own.is_file():
                return dict(json.loads(own.read_text(encoding="utf-8")))
        return self._layout.config(name, self._tensors)

    def _tokenizer(self, name: str, part: Part) -> Any:
        encoder = self._config(name.replace("tokenizer", "text_encoder")) or {}
        cls = getattr(transformers, part.class_name)
        own = self._beside / name
        if own.is_dir():
            return cls.from_pretrained(str(own), local_files_only=True)
        options = dict(part.options)
        if length := encoder.get("max_position_embeddings"):
            options["model_max_length"] = length
        for place in self._vocabularies(part):
            try:
                found = cls.from_pretrained(str(place), local_files_only=True, **options)
            except (OSError, ValueError):  # another's damage
                continue
            if 0 <= encoder["vocab_size"] - len(found) < SPARE_ROWS:
                return found
        raise self._missing(name, part, "vocab.json, merges.txt and tokenizer_config.json")

    def _vocabularies(self, part: Part) -> Iterator[pathlib.Path]:
        for place in others(self._folders):
            for name, (_, class_name) in _classes(place).items():
                same = class_name.removesuffix("Fast") == part.class_name
                if same and (place / name).is_dir() and self._is_data(place / name):
                    yield place / name

    def _is_data(self, place: pathlib.Path) -> bool:
        try:
            check_files(place, self._model)
        except Internal:
            return False
        return True

    def _lender(self, cls: Any, lacking: set[str]) -> pathlib.Path:
        """Find a checkpoint whose first part has the same architecture as the file's."""
        first = self._layout.first
        part, config = self._layout.parts[first], self._config(first)
        varying = {field for name, field in self._layout.varying if name == first}
        for place in others((self._beside, *self._folders)):
            if _classes(place).get(first) != (part.library, part.class_name):
                continue
            theirs = _read_json(place / first / "config.json")
            if all(theirs.get(k, v) == v for k, v in (config or {}).items() if k not in varying):
                return place
        remedy = f"; run: pictor models pull {part.repository}" if part.repository else ""
        raise self._unreadable(
            f"it does not hold {', '.join(sorted(lacking))}, which {cls.__name__} wants too, and no"
            f" checkpoint of the same architecture is here to take them from{remedy}"
        )

    def _write_configs(
        self, folder: pathlib.Path, cls: Any, held: Mapping[str, Part], lender: pathlib.Path | None
    ) -> None:
        """Write what ``from_single_file`` would take from a hub."""
        index: dict[str, Any] = {"_class_name": cls.__name__}
        for name, part in held.items():
            config = self._config(name)
            if config is None and lender:
                config = _read_json(lender / name / "config.json")
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
            index[name] = [part.library, part.class_name]
        (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")

    def _require_whole(self, pipeline: Any) -> None:
        for name, part in pipeline.components.items():
            if not isinstance(part, torch.nn.Module):
                continue
            lacking = [tensor for tensor, weight in part.named_parameters() if weight.is_meta]
            if lacking:
                raise self._unreadable(
                    f"it lacks {len(lacking)} tensors of the {name}, e.g. {lacking[0]}"
                )

    def _missing(self, name: str, part: Part, files: str) -> Internal:
        return unreadable(
            self._model,
            f"{self._place.name} holds no {name}, and no checkpoint here has one that fits; put"
            f" {files} of {part.repository}, folder {name}/, into {self._beside.name}/{name}/"
            f" beside the file, or run: pictor models pull {part.repository}",
        )

    def _unreadable(self, why: str) -> Internal:
        return unreadable(self._model, f"{self._place.name}: {why}")


def _classes(place: pathlib.Path) -> dict[str, tuple[str, str]]:
    """Return library and class of each part, as a folder's index has them."""
    index = _read_json(place / INDEX)
    return {
        name: (str(value[0]), str(value[1]))
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2
    }


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
