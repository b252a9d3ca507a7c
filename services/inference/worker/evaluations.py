"""
Evaluations: the calls of a denoiser, taken out of a pipeline's hands.

A pipeline is given an Evaluator in its denoiser's place. What the pipeline asks of it becomes an
Evaluation, which whoever runs the pipeline answers, together with those of other pipelines.
"""

import collections
import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from services.inference.worker.families.family import Denoiser

# Texts are padded to a multiple of this many tokens, so that prompts of like length share a batch.
TEXT_TOKENS = 64
# What was made of an argument is kept for this many tensors: more than a step has calls.
REMEMBERED = 4

Answers = Sequence[torch.Tensor]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """
    One call of a denoiser.

    Attributes:
        sample: The name of the argument that holds the noisy latents.
        timestep: The name of the argument that holds the noise level.
        arguments: What is the same for all rows of a batch, by name; nested names have dots.
        lanes: What each row has of its own, by name: tensors of shape (lane_count, ...).
        shape: Equal where evaluations can be answered by one forward.
    """

    sample: str
    timestep: str
    arguments: Mapping[str, Any]
    lanes: Mapping[str, torch.Tensor]
    shape: tuple[object, ...]

    @property
    def lane_count(self) -> int:
        """How many rows of the batch it takes: two where guidance needs two predictions."""
        return len(self.lanes[self.sample])

    def is_like(self, other: "Evaluation") -> bool:
        """Whether it asks the same, at whatever noise level of whatever latents."""
        moving = {self.sample, self.timestep}
        return self.shape == other.shape and all(
            tensor is other.lanes[name] for name, tensor in self.lanes.items() if name not in moving
        )

    def at(self, other: "Evaluation") -> "Evaluation":
        """Ask the same of another one's latents."""
        moving = {name: other.lanes[name] for name in (self.sample, self.timestep)}
        return replace(self, lanes={**self.lanes, **moving})


class Evaluator:
    """
    Stands in a pipeline in its denoiser's place.

    Where guidance calls the denoiser twice in a step, with the same latents, both are asked for
    at once from the second step on: the first call of a step tells what the second will be.

    Args:
        module: The denoiser.
        record: What the family says of it.
        ask: Takes evaluations of one step, and returns the denoiser's answers.
        foresees: Whether the second call of a step is asked for with the first.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        record: Denoiser,
        ask: Callable[[Sequence[Evaluation]], Answers],
        *,
        foresees: bool = True,
    ) -> None:
        self._module = module
        self._record = record
        self._ask = ask
        self._foresees = foresees
        self._signature = inspect.signature(module.forward)
        self._prepared = Prepared(record)
        self._last_step: list[Evaluation] = []
        self._this_step: list[Evaluation] = []
        self._held: list[tuple[Evaluation, torch.Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    @contextlib.contextmanager
    def cache_context(self, _name: str) -> Iterator[None]:
        """Do nothing: whoever answers keeps caches, if there are any."""
        yield

    def __call__(self, *given: Any, **named: Any) -> tuple[torch.Tensor]:
        """Answer as the denoiser would with ``return_dict=False``."""
        bound = self._signature.bind(*given, **named)
        evaluation = self._prepared.evaluation(bound.arguments)
        if not self._is_of_this_step(evaluation):
            self._last_step, self._this_step, self._held = self._this_step, [], []
        self._this_step.append(evaluation)
        if self._held and evaluation.is_like(self._held[0][0]):
            return (self._held.pop(0)[1],)
        asked = [evaluation, *self._foreseen(evaluation)]
        answers = self._ask(asked)
        self._held = list(zip(asked[1:], answers[1:], strict=True))
        return (answers[0],)

    def _is_of_this_step(self, evaluation: Evaluation) -> bool:
        sample = evaluation.sample
        return bool(self._this_step) and (
            self._this_step[0].lanes[sample] is evaluation.lanes[sample]
        )

    def _foreseen(self, evaluation: Evaluation) -> list[Evaluation]:
        known = self._last_step
        if not self._foresees or len(self._this_step) > 1 or not known:
            return []
        if not evaluation.is_like(known[0]):
            return []
        later = [one.at(evaluation) for one in known[1:]]
        return [one for one in later if one.shape == evaluation.shape]


class Prepared:
    """
    Makes evaluations of a denoiser's arguments, and remembers what was made of lasting ones.

    Args:
        record: What the family says of the denoiser.
    """

    def __init__(self, record: Denoiser) -> None:
        self._record = record
        self._made: dict[str, collections.deque[tuple[torch.Tensor, Any]]] = (
            collections.defaultdict(lambda: collections.deque(maxlen=REMEMBERED))
        )

    def evaluation(self, bound: Mapping[str, Any]) -> Evaluation:
        """
        Make an evaluation.

        Raises:
            TypeError: If an argument has neither a row for each lane nor a place in the record.
        """
        flat = dict(_flattened(bound))
        flat.pop("return_dict", None)
        sample = next(iter(flat))
        for text, mask in self._record.padded.items():
            flat |= self._padded(text, mask, flat)
        count = len(flat[sample])
        lanes: dict[str, torch.Tensor] = {}
        common: dict[str, Any] = {}
        shape: list[object] = []
        for name, value in flat.items():
            if name in self._record.shared:
                common[name] = value
                shape.append((name, self._remembered(name, value, _digest)))
            elif isinstance(value, torch.Tensor):
                lanes[name] = self._lane(name, value, count)
                shape.append((name, lanes[name].shape[1:], lanes[name].dtype))
            else:
                common[name] = value
                shape.append((name, repr(value)))
        return Evaluation(sample, self._record.timestep, common, lanes, tuple(shape))

    def _lane(self, name: str, value: torch.Tensor, count: int) -> Any:
        if value.ndim and len(value) == count:
            return value
        if value.numel() != 1:
            raise TypeError(f"denoiser argument {name} has shape {tuple(value.shape)}")

        def spread(number: torch.Tensor) -> torch.Tensor:
            # Whole timesteps below 2^24 are the same in float32.
            return number.float().reshape(1).expand(count)

        lasting = name != self._record.timestep
        return self._remembered(name, value, spread) if lasting else spread(value)

    def _padded(self, text: str, mask: str, flat: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        def pad(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            given = flat.get(mask)
            known = tokens.new_ones(tokens.shape[:2], dtype=torch.bool) if given is None else given
            missing = -tokens.shape[1] % TEXT_TOKENS
            return (
                torch.nn.functional.pad(tokens, (0, 0, 0, missing)),
                torch.nn.functional.pad(known.bool(), (0, missing)),
            )

        tokens, known = self._remembered(text, flat[text], pad)
        return {text: tokens, mask: known}

    def _remembered(
        self, name: str, value: torch.Tensor, make: Callable[[torch.Tensor], Any]
    ) -> Any:
        for known, made in self._made[name]:
            if known is value:
                return made
        made = make(value)
        self._made[name].append((value, made))
        return made


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Put flattened arguments back in their places."""
    result: dict[str, Any] = {}
    for name, value in flat.items():
        place = result
        *path, last = name.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return result


def _flattened(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _digest(tensor: torch.Tensor) -> bytes:
    content = tensor.detach().float().cpu().contiguous().numpy()
    return (
        hashlib.blake2b(content.tobytes(), digest_size=16).digest() + repr(content.shape).encode()
    )
