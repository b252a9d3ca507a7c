"""
Where a scene's figures are, as a second thing for the UNet to know while it learns.

The denoising loss alone finds out late that words decide places and shapes. Linear layers on
the UNet's inner states that must name the figure at each cell tell it early; they are thrown
away after training.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.shapes.model import LATENT_SIDE, Unet
from training.shapes.pictures import COLOURS, RADII_PX, SHAPES, SIDE_PX, Figure, Scene, coverage

_TRAITS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "size": tuple(RADII_PX),
    "colour": tuple(COLOURS),
}
_PLACE, _COORDINATES = 1, 2
_OUTPUTS = _PLACE + _COORDINATES + sum(len(words) for words in _TRAITS.values())
_MOST_FIGURES = 2
_TRAITS_WEIGHT = 0.05


def layouts_of(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """
    Where the figures are and what they are.

    Returns:
        The share of each latent cell that each figure covers, (n, 2, 32, 32), uint8 of 255,
        and the indices of its shape, size and colour, (n, 2, 3).
    """
    covered = np.zeros((len(scenes), _MOST_FIGURES, LATENT_SIDE, LATENT_SIDE), dtype=np.uint8)
    traits = np.zeros((len(scenes), _MOST_FIGURES, len(_TRAITS)), dtype=np.int64)
    for row, scene in enumerate(scenes):
        for column, figure in enumerate(scene.figures):
            covered[row, column] = _cells(figure)
            traits[row, column] = [
                words.index(getattr(figure, name)) for name, words in _TRAITS.items()
            ]
    return torch.from_numpy(covered), torch.from_numpy(traits)


def _cells(figure: Figure) -> NDArray[np.uint8]:
    mask = coverage(figure.shape, figure.centre_px, figure.radius_px)
    cell_px = SIDE_PX // LATENT_SIDE
    blocks = mask.reshape(LATENT_SIDE, cell_px, LATENT_SIDE, cell_px).mean(axis=(1, 3))
    cells: NDArray[np.uint8] = (blocks * 255).astype(np.uint8)
    return cells


class LayoutReader(nn.Module):
    """Linear layers on the states of a UNet's middle and of its first two blocks up."""

    def __init__(self, unet: Unet) -> None:
        super().__init__()
        widths = list(reversed(unet.config["block_out_channels"]))
        blocks = [unet.mid_block, *unet.up_blocks[:2]]
        self.heads = nn.ModuleList(
            nn.Conv2d(width, _OUTPUTS, 1) for width in (widths[0], widths[0], widths[1])
        )
        self._states: dict[int, Tensor] = {}
        for index, block in enumerate(blocks):
            block.register_forward_hook(self._keeper(index))

    def _keeper(self, index: int) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_block: nn.Module, _arguments: object, state: Tensor) -> None:
            self._states[index] = state

        return keep

    def loss(self, covered: Tensor, traits: Tensor) -> Tensor:
        """How badly the states of the last forward pass tell the layout."""
        losses = [
            _layout_loss(head(self._states[index]).float(), covered.float() / 255, traits)
            for index, head in enumerate(self.heads)
        ]
        return torch.stack(losses).sum()


def _layout_loss(seen: Tensor, covered: Tensor, traits: Tensor) -> Tensor:
    """Of one block's answers, (n, _OUTPUTS, side, side)."""
    covered = nn.functional.adaptive_avg_pool2d(covered, seen.shape[-1])
    share, owner = covered.max(dim=1)
    sizes = [_PLACE, _COORDINATES, *(len(words) for words in _TRAITS.values())]
    place, coordinates, *answers = torch.split(seen, sizes, dim=1)
    place_loss = nn.functional.binary_cross_entropy_with_logits(place[:, 0], share)
    trait_losses = [
        _weighted_mean(
            nn.functional.cross_entropy(
                answer, _of_owner(traits[:, :, index], owner), reduction="none"
            ),
            share,
        )
        for index, answer in enumerate(answers)
    ]
    return (
        place_loss
        + _coordinates_loss(coordinates)
        + _TRAITS_WEIGHT * torch.stack(trait_losses).sum()
    )


def _coordinates_loss(seen: Tensor) -> Tensor:
    """How badly each cell tells its own place, -1..1 across and down: (n, 2, side, side)."""
    along = torch.linspace(-1, 1, seen.shape[-1])
    grid = torch.stack(torch.meshgrid(along, along, indexing="xy"))
    return nn.functional.mse_loss(seen, grid.expand_as(seen))


def _of_owner(trait: Tensor, owner: Tensor) -> Tensor:
    """The trait (n, 2) of the figure that owns each cell (n, side, side)."""
    return torch.where(owner == 0, trait[:, 0, None, None], trait[:, 1, None, None])


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum()
