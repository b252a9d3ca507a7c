"""What the device drew, before it is written to files."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from pictor.inference.v1.job_pb2 import ParameterNote


class DeviceBroken(Exception):
    """The device will not draw again in this process: whatever it is asked now fails."""


@dataclass(frozen=True)
class Drawing:
    """
    What was drawn, and how long it took.

    Attributes:
        images: RGB, of the requested size, in the order of their seeds.
        seeds: One an image.
        sampler: The name of the sampler that was used.
        receipt: What was translated, clamped or ignored.
        load_seconds: Spent reading weights; 0 where the model was loaded.
        inference_seconds: Spent on encoders, steps and decoding.
    """

    images: Sequence[Image.Image]
    seeds: Sequence[int]
    sampler: str
    receipt: Sequence[ParameterNote]
    load_seconds: float = 0.0
    inference_seconds: float = 0.0
