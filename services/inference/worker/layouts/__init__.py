"""
Layouts of single files, one .toml each: how a file is recognised that holds a whole model, and what
it leaves out: the configs of its parts, as they were published with the model.

A layout has

    recognised_by   lists of tensor names; a file that holds all names of one list has the layout
    parts           the pipeline's parts; no other checkpoint can stand in for the first
    measured        fields of configs that the shape of a tensor tells
    cases           fields of configs that hold where a tensor is there, or is not

and a part has

    library, class  as model_index.json has them
    prefixes        how the names of its tensors begin, where they are in the file at all
    config          absent: that of the checkpoint which lends the parts that the file lacks
    options         for a tokenizer: what its class is told
    repository      of the hub: has the part, for those who lack it
"""

import functools
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.inference.worker.tensor_files import Tensor

FOLDER = pathlib.Path(__file__).parent
# Some files have it before every name of the first part.
PREFIX = "model.diffusion_model."


@dataclass(frozen=True)
class Part:
    """One part of a pipeline; the fields are those of the .toml file."""

    library: str
    class_name: str
    prefixes: Sequence[str] = ()
    config: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    repository: str = ""

    @property
    def is_tokenizer(self) -> bool:
        """Whether it is a vocabulary, which no file of tensors holds."""
        return "Tokenizer" in self.class_name

    @property
    def is_scheduler(self) -> bool:
        """Whether it is a config and nothing else."""
        return self.class_name.endswith("Scheduler")

    def is_in(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a file holds its weights."""
        return any(name.startswith(tuple(self.prefixes)) for name in tensors)


@dataclass(frozen=True)
class Layout:
    """How one architecture's single files are made; the fields are those of the .toml file."""

    recognised_by: Sequence[Sequence[str]]
    parts: Mapping[str, Part]
    measured: Sequence[Mapping[str, Any]] = ()
    cases: Sequence[Mapping[str, Any]] = ()

    @property
    def varying(self) -> frozenset[tuple[str, str]]:
        """The fields, by part, in which checkpoints of the architecture differ."""
        measured = {(rule["part"], rule["field"]) for rule in self.measured}
        return frozenset(measured) | {
            (case["part"], key) for case in self.cases for key in case["config"]
        }

    @property
    def first(self) -> str:
        """The name of the part that makes the model what it is."""
        return next(iter(self.parts))

    def recognises(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a file with these tensors has the layout."""
        names = _plain(tensors)
        return any(all(name in names for name in one) for one in self.recognised_by)

    def config(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Return the config of a part in a file with these tensors; None where it is not told."""
        published = self.parts[part].config
        if published is None:
            return None
        names, config = _plain(tensors), dict(published)
        for rule in self.measured:
            for name in set(rule["tensors"]) & set(names) if rule["part"] == part else ():
                config[rule["field"]] = names[name].shape[rule["side"]]
        for case in self.cases:
            there = any(name in names for name in case["tensors"])
            if case["part"] == part and there == case["there"]:
                config |= case["config"]
        return config


def layout_of(tensors: Mapping[str, Tensor]) -> Layout | None:
    """Return the layout of a file with these tensors, or None."""
    return next((layout for layout in layouts().values() if layout.recognises(tensors)), None)


@functools.cache
def layouts() -> Mapping[str, Layout]:
    """Return every layout, by the name of its file."""
    return {path.stem: _layout(path) for path in sorted(FOLDER.glob("*.toml"))}


def _layout(path: pathlib.Path) -> Layout:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    parts = {
        name: Part(class_name=part.pop("class"), **part)
        for name, part in document.pop("parts").items()
    }
    return Layout(parts=parts, **document)


def _plain(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()} | dict(tensors)
