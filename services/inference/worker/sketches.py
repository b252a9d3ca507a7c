"""
Sketches: small pictures of latents, drawn without the model's decoder.

    LinearMap     a latent's channels to a pixel's colours; fitted to the model's own decoder
    TinyDecoder   a small decoder of the same latents, where one lies in a model folder

Which of them a model has is found out at its first sketch: the decoder's own pictures of a few
examples are what both are measured by. Sketching does not make the host wait for the device.
"""

import itertools
import pathlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from PIL import Image
from torch import Tensor

from services.inference.worker import tiny_decoders
from services.inference.worker.families.family import Family
from services.inference.worker.frames import Size

# Latents are reduced to so many a side: previews are not larger.
MAP_LATENTS = 256
DECODER_LATENTS = 32
# Examples have so many latents a side, and most decoders eight pixels for each of them.
EXAMPLE_LATENTS = 8
USUAL_FACTOR = 8
MOSAICS = 8
MOSAIC_CELLS = 4
# Keeps channels that the examples hardly move from counting much, as a part of the others' power.
RIDGE = 1e-4

log = structlog.get_logger()

Drawing = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sketch:
    """
    A rough picture on its way from the device.

    Attributes:
        pixels: Of shape (height, width, 3), bytes, on the host; there once *ready* has returned.
        ready: Waits for them.
    """

    pixels: Tensor
    ready: Callable[[], object]

    def picture(self) -> Image.Image:
        """Wait for the pixels. May be called from any thread."""
        self.ready()
        return Image.fromarray(self.pixels.numpy())


class Sketcher:
    """
    Sketches the latents of one model.

    Args:
        folders: The model folders, where a tiny decoder may lie.
    """

    def __init__(self, folders: Sequence[pathlib.Path] = ()) -> None:
        self._folders = folders
        self._draw: Drawing | None = None

    def sketch(self, family: Family, pipeline: Any, latents: Tensor, size: Size) -> Sketch | None:
        """
        Draw roughly what latents show; None where the family has no previews.

        Args:
            family: Lays the latents out.
            pipeline: A pipeline of the model; at the first call its decoder is studied.
            latents: Of one image, as the pipeline's callback gives them.
            size: The canvas's.
        """
        if not family.spatial:
            return None
        with torch.no_grad():
            laid_out = family.spatial(pipeline, latents, size)[:1].float()
            if self._draw is None:
                self._draw = fitted(family, pipeline.vae, self._folders, laid_out.device)
            return _sent(self._draw(laid_out)[0])


@dataclass(frozen=True)
class LinearMap:
    """
    Takes the channels of each latent to a colour.

    Attributes:
        weight: Of shape (3, channels, 1, 1), float32.
        bias: Of shape (3), float32.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def between(cls, latents: Tensor, pictures: Tensor) -> "LinearMap":
        """Fit by least squares: (n, channels, height, width) to (n, 3, height, width)."""
        known, wanted = (
            values.movedim(1, -1).flatten(0, -2).double().cpu() for values in (latents, pictures)
        )
        centre, level = known.mean(0), wanted.mean(0)
        known, wanted = known - centre, wanted - level
        power = known.T @ known
        ridge = RIDGE * power.diagonal().mean() * torch.eye(len(power), dtype=power.dtype)
        weight = torch.linalg.solve(power + ridge, known.T @ wanted).T
        values = (weight[:, :, None, None], level - weight @ centre)
        return cls(*(value.to(latents.device, torch.float32) for value in values))

    def __call__(self, latents: Tensor) -> Tensor:
        """Make pictures (n, 3, height, width), about -1 to 1, one pixel a latent."""
        return torch.nn.functional.conv2d(_reduced(latents, MAP_LATENTS), self.weight, self.bias)


@dataclass(frozen=True)
class TinyDecoder:
    """
    Decodes by a small network, as TAESD.

    Attributes:
        module: The network, diffusers' AutoencoderTiny.
        scale: Of the latents that it takes, over those that the model's own decoder takes.
        shift: What the model's own decoder adds to them.
    """

    module: Any
    scale: float
    shift: float

    def __call__(self, latents: Tensor) -> Tensor:
        """Make pictures (n, 3, height, width), about -1 to 1, eight pixels a latent."""
        config = self.module.config
        small = (_reduced(latents, DECODER_LATENTS) - self.shift) * self.scale
        own = small.to(self.module.dtype) / config.scaling_factor + config.shift_factor
        pictures: Tensor = self.module.decode(own, return_dict=False)[0]
        return pictures.float()


def fitted(
    family: Family, vae: Any, folders: Sequence[pathlib.Path], device: torch.device
) -> Drawing:
    """
    Find how to sketch a model's latents.

    It costs what encoding and decoding one picture of 256 by 256 pixels does. A tiny decoder is
    taken if it is closer to the model's own than the linear map: families are larger than latent
    formats, so that the one of that name may be another model's.
    """
    started = time.monotonic()
    latents, pictures = studied(vae, device)
    draw: Drawing = LinearMap.between(latents, pictures)
    if tiny := _tiny_decoder(family, vae, folders, device):
        errors = [_error(candidate(latents), pictures) for candidate in (draw, tiny)]
        log.info("previews.compared", decoder=family.tiny_decoder, linear=errors[0], tiny=errors[1])
        draw = tiny if errors[1] < errors[0] else draw
    log.info("previews.fitted", seconds=round(time.monotonic() - started, 3))
    return draw


def studied(vae: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """
    Let a decoder show what it makes of a few examples.

    Returns:
        Latents as the decoder takes them, (n, channels, 8, 8), and its pictures of them, with one
        pixel for each latent, in -1 to 1; float32.
    """
    latents = encoded(vae, examples(EXAMPLE_LATENTS * USUAL_FACTOR).to(device))
    if latents.shape[-1] < EXAMPLE_LATENTS:
        side_px = EXAMPLE_LATENTS**2 * USUAL_FACTOR // latents.shape[-1]
        latents = encoded(vae, examples(side_px).to(device))
    pictures = decoded(vae, latents).clamp(-1, 1)
    small = torch.nn.functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    return latents.float(), small


def encoded(vae: Any, pictures: Tensor) -> Tensor:
    """Make the latents of pictures, as the decoder takes them."""
    given = pictures.to(vae.dtype)
    answer = vae.encode(given.unsqueeze(2) if _of_films(vae) else given, return_dict=False)[0]
    latents: Tensor = answer if isinstance(answer, Tensor) else answer.mode()
    return latents[:, :, 0] if _of_films(vae) else latents


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Make pictures (n, 3, height, width), about -1 to 1, with the model's own decoder."""
    given = latents.to(vae.dtype)
    pictures: Tensor = vae.decode(
        given.unsqueeze(2) if _of_films(vae) else given, return_dict=False
    )[0]
    return (pictures[:, :, 0] if _of_films(vae) else pictures).float()


def examples(side_px: int) -> Tensor:
    """
    Draw pictures to study decoders by: the eight plain colours, and mosaics of random ones.

    Returns:
        A tensor of shape (16, 3, side_px, side_px) in -1 to 1, float32, always the same.
    """
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)))
    plain = corners[:, :, None, None].expand(-1, -1, side_px, side_px)
    generator = torch.Generator().manual_seed(0)
    cells = torch.rand(MOSAICS, 3, MOSAIC_CELLS, MOSAIC_CELLS, generator=generator) * 2 - 1
    mosaics = torch.nn.functional.interpolate(cells, size=(side_px, side_px))
    return torch.cat([plain, mosaics])


def _of_films(vae: Any) -> bool:
    """Whether pictures are to it films of one frame."""
    return any(isinstance(part, torch.nn.Conv3d) for part in vae.modules())


def _tiny_decoder(
    family: Family, vae: Any, folders: Sequence[pathlib.Path], device: torch.device
) -> TinyDecoder | None:
    place = tiny_decoders.find(family.tiny_decoder, folders)
    module = place and tiny_decoders.read(place)
    if not module:
        return None
    scale, shift = (vae.config.get(name) for name in ("scaling_factor", "shift_factor"))
    return TinyDecoder(module.to(device, vae.dtype), scale or 1, shift or 0)


def _error(pictures: Tensor, wanted: Tensor) -> float:
    """Return the root of the mean square of the difference; infinite where they do not compare."""
    small = torch.nn.functional.interpolate(pictures, size=wanted.shape[-2:], mode="area")
    error = float((small.clamp(-1, 1) - wanted).square().mean().sqrt())
    return round(error, 4)


def _reduced(latents: Tensor, most: int) -> Tensor:
    longest = max(latents.shape[-2:])
    if longest <= most:
        return latents
    return torch.nn.functional.interpolate(
        latents, scale_factor=most / longest, mode="area", recompute_scale_factor=True
    )


def _sent(picture: Tensor) -> Sketch:
    """Send a picture (3, height, width) in -1 to 1 to the host, as bytes."""
    bytes_ = picture.add(1).mul_(127.5).round_().clamp_(0, 255).byte()
    pixels = bytes_.permute(1, 2, 0).contiguous()
    if pixels.device.type != "cuda":
        return Sketch(pixels.cpu(), lambda: None)
    sent = pixels.to("cpu", non_blocking=True)
    return Sketch(sent, torch.cuda.current_stream(pixels.device).record_event().synchronize)
