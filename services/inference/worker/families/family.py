"""What a model family is: one record in a file of its own, found by discovery over this folder."""

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from pictor.catalog.v1.model_pb2 import Operation
from pictor.inference.v1 import generation_pb2
from services.inference.worker.frames import Size


@dataclass(frozen=True)
class Canvas:
    """
    What one pipeline call draws on.

    Attributes:
        generation: What to draw, with defaults merged.
        operation: Says what is drawn from what; a key of the family's pipelines.
        width_px: A multiple of the family's size_multiple_px.
        height_px: Likewise.
        image: The picture to start from, RGB, of the canvas's size; None where nothing was given.
        mask: One channel of the canvas's size, 255 is repainted; None where nothing was given.
        references: The pictures that the prompt speaks of, RGB, each of its own size.
        configs: What the weights say of themselves: the configs of the model's parts, by name.
    """

    generation: generation_pb2.Generation
    operation: Operation.ValueType
    width_px: int
    height_px: int
    image: Image.Image | None = None
    mask: Image.Image | None = None
    references: tuple[Image.Image, ...] = ()
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Denoiser:
    """
    The part of a pipeline that predicts the noise, once or twice in each step.

    Attributes:
        part: Its name in the pipeline: ``unet``, ``transformer``.
        timestep: The name of its argument that holds the noise level.
        shared: Arguments without a batch dimension, e.g. where tokens lie. Images share a forward
            only where these are equal.
        padded: Texts whose length is that of the prompt, and the masks that say so, by argument.
    """

    part: str
    timestep: str = "timestep"
    shared: frozenset[str] = frozenset()
    padded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """
    Models that are drawn with in the same way, whatever their weights.

    Attributes:
        name: As Model.family has it.
        pipelines: The diffusers class that does each operation. The families that lack an
            operation lack its key.
        size_multiple_px: Divides both sides of every canvas.
        arguments: Makes the pipeline call's keyword arguments, without generator, output type and
            callback, which are the same for all families.
        denoiser: The part whose calls are batched with those of other images. None: the pipeline's
            steps are taken alone.
        uses: The optional fields of Generation that change the picture; the others are reported
            as ignored.
        dtype: The torch dtype of the weights on a device other than the CPU, unless the model's
            record names others; see placement.
        left_out: Components that are not loaded, e.g. a safety checker.
        options: Further arguments of the pipelines' constructors.
        max_references: How many references each operation takes, 0 where it is not named; a
            request with more is refused.
        readers: Reads a component, by name, from its folder in the checkpoint, in place of the
            class that the checkpoint names.
        embeddings: The text encoders that textual inversion extends, each with its key in a file
            of several; empty for a file of one. Families without it lack them.
        reads_attention: The prompts' syntax of AUTOMATIC1111 is applied: the pipelines have CLIP's
            encoders, and take embeddings of any length. Other families are given the words alone.
        spatial: Makes what the pipeline's decoder takes, of shape (n, channels, height, width),
            from the pipeline, the latents that its callback gives and the canvas's size; without
            making the host wait for the device. None: the family has no previews.
        tiny_decoder: The usual name of the small decoder of the same latents; previews are drawn
            by it where a folder of this name lies in a model folder. Empty: there is none.
    """

    name: str
    pipelines: Mapping[Operation.ValueType, str]
    size_multiple_px: int
    arguments: Callable[[Canvas], dict[str, Any]]
    denoiser: Denoiser | None = None
    uses: frozenset[str] = frozenset()
    dtype: str = "bfloat16"
    left_out: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None
    max_references: Mapping[Operation.ValueType, int] = field(default_factory=dict)
    readers: Mapping[str, Callable[[pathlib.Path], Any]] = field(default_factory=dict)
    embeddings: Mapping[str, str] = field(default_factory=dict)
    reads_attention: bool = False
    spatial: Callable[[Any, Any, Size], Any] | None = None
    tiny_decoder: str = ""
