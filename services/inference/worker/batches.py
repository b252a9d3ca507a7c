"""
Batches: what rows of one shape ask for, answered by one forward of the denoiser.

Each argument has a buffer with a place for every lane. A lane's own tensors are written when it
joins, and afterwards only those that have changed: the latents and their noise level. A lane that
leaves is replaced by the last one, so that the lanes in use stay together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from services.inference.worker.evaluations import Evaluation, nested

Asked = Mapping[object, Sequence[Evaluation]]


@dataclass(eq=False)
class Seat:
    """
    A place in the batch.

    Attributes:
        lane: Who sits there: a row, the number of its evaluation, the number of the lane in it.
        written: What was written to the buffers, and the tensor's version then, by argument.
    """

    lane: tuple[object, int, int]
    written: dict[str, tuple[torch.Tensor, int]] = field(default_factory=dict)


class Batch:
    """
    The row buffers of one shape.

    Args:
        module: The denoiser.
        bucketed: Whether forwards have a power of two of lanes, so that few shapes are compiled.
    """

    def __init__(self, module: torch.nn.Module, *, bucketed: bool = False) -> None:
        self._module = module
        self._bucketed = bucketed
        self._buffers: dict[str, torch.Tensor] = {}
        self._seats: list[Seat] = []

    def forward(self, asked: Asked) -> dict[object, list[torch.Tensor]]:
        """
        Answer evaluations of one shape.

        Args:
            asked: What each row asks for.

        Returns:
            The denoiser's answer to each evaluation: (lane_count, ...).
        """
        self._seat(asked)
        evaluations = {
            (row, number): evaluation
            for row, several in asked.items()
            for number, evaluation in enumerate(several)
        }
        for place, seat in enumerate(self._seats):
            row, number, lane = seat.lane
            self._write(place, seat, evaluations[row, number], lane)
        first = next(iter(evaluations.values()))
        count = self._lane_count()
        lanes = {name: buffer[:count] for name, buffer in self._buffers.items()}
        answers = self._module(**nested({**first.arguments, **lanes}), return_dict=False)[0]
        return self._handed_out(answers, asked)

    def _seat(self, asked: Asked) -> None:
        wanted = {
            (row, number, lane): evaluation
            for row, several in asked.items()
            for number, evaluation in enumerate(several)
            for lane in range(evaluation.lane_count)
        }
        for place in reversed(range(len(self._seats))):
            if self._seats[place].lane not in wanted:
                self._leave(place)
        seated = {seat.lane for seat in self._seats}
        self._seats += [Seat(lane) for lane in wanted if lane not in seated]
        self._make_room(next(iter(wanted.values())))

    def _leave(self, place: int) -> None:
        last = self._seats.pop()
        if place == len(self._seats):
            return
        for buffer in self._buffers.values():
            buffer[place].copy_(buffer[len(self._seats)])
        self._seats[place] = last

    def _make_room(self, evaluation: Evaluation) -> None:
        needed = self._lane_count()
        for name, tensor in evaluation.lanes.items():
            old = self._buffers.get(name)
            if old is not None and len(old) >= needed:
                continue
            room = 1 << (needed - 1).bit_length()
            self._buffers[name] = tensor.new_zeros((room, *tensor.shape[1:]))
            if old is not None:
                self._buffers[name][: len(old)] = old

    def _lane_count(self) -> int:
        used = len(self._seats)
        return 1 << (used - 1).bit_length() if self._bucketed else used

    def _write(self, place: int, seat: Seat, evaluation: Evaluation, lane: int) -> None:
        for name, tensor in evaluation.lanes.items():
            # torch counts a tensor's changes in place; there is no public name for the count.
            now = (tensor, tensor._version)  # noqa: SLF001
            before = seat.written.get(name, (None, -1))
            if before[0] is not now[0] or before[1] != now[1]:
                self._buffers[name][place].copy_(tensor[lane])
                seat.written[name] = now

    def _handed_out(self, answers: Any, asked: Asked) -> dict[object, list[torch.Tensor]]:
        places = {seat.lane: place for place, seat in enumerate(self._seats)}
        return {
            row: [
                _taken(answers, [places[row, number, lane] for lane in range(one.lane_count)])
                for number, one in enumerate(several)
            ]
            for row, several in asked.items()
        }


def _taken(answers: torch.Tensor, places: list[int]) -> torch.Tensor:
    first, count = places[0], len(places)
    if places == list(range(first, first + count)):
        return answers[first : first + count]
    return torch.stack([answers[place] for place in places])
