"""
Rows: images on their way, one each.

A row runs an official pipeline's call in a greenlet, which is suspended wherever the call needs
its denoiser. What it asks for is answered together with what other rows ask for; then it goes on,
with all that the pipeline does around the denoiser: guidance, the solver's step, masks.
"""

import contextvars
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent, greenlet

from services.inference.worker.evaluations import Answers, Evaluation


@dataclass(kw_only=True)
class Standing:
    """
    What decides when a row's turn comes.

    Attributes:
        priority: Higher goes first.
        deadline: When it ought to be done, on the monotonic clock, in seconds.
        remaining_steps: How many steps it has to take.
        passed_over: How often in a row another one went first.
    """

    priority: int = 0
    deadline: float = math.inf
    remaining_steps: int = 0
    passed_over: int = 0


class Row:
    """
    One image on its way. Used in one thread only, from the beginning to the end.

    Args:
        draw: Runs the whole call; it is given the row, and returns the picture.
        standing: Decides when its turn comes.
        variant: Equal for rows for which the model is the same, with its adapters.
    """

    def __init__(
        self, draw: Callable[["Row"], Any], standing: Standing, variant: object = ()
    ) -> None:
        self.standing = standing
        self._variant = variant
        self.picture: Any = None
        self._greenlet = greenlet(lambda _: draw(self))
        # What is logged within the call carries the job's name, as around it.
        self._greenlet.gr_context = contextvars.copy_context()
        self._engine = getcurrent()
        self._asked: Sequence[Evaluation] = ()
        self._module: torch.nn.Module | None = None
        self._started = False

    @property
    def is_new(self) -> bool:
        """Whether it has yet to begin: to encode its prompt and its pictures."""
        return not self._started

    @property
    def is_done(self) -> bool:
        """Whether the picture is there."""
        return self._started and bool(self._greenlet.dead)

    @property
    def asked(self) -> Sequence[Evaluation]:
        """What it waits for; empty where it waits for its turn only."""
        return self._asked

    @property
    def module(self) -> torch.nn.Module | None:
        """The denoiser that it waits for."""
        return self._module

    @property
    def key(self) -> object:
        """Equal for rows that can share a forward; a row that calls no denoiser has its own."""
        if not self._asked:
            return self
        return (id(self._module), self._variant, self._asked[0].shape)

    def go_on(self, answers: Answers = ()) -> None:
        """
        Run until the denoiser is needed again, or the turn is given away, or the picture is there.

        Raises:
            Exception: Whatever the call raises; the row is at its end then.
        """
        self._started = True
        self._asked, self._module = (), None
        result = self._greenlet.switch(answers)
        if self._greenlet.dead:
            self.picture = result

    def ask(self, module: torch.nn.Module, asked: Sequence[Evaluation]) -> Answers:
        """Suspend the call until somebody answers. Called from within."""
        self._asked, self._module = asked, module
        answers: Answers = self._engine.switch()
        return answers

    def give_way(self) -> None:
        """Suspend the call until its next turn. Called from within."""
        self._engine.switch()

    def abandon(self) -> None:
        """End the call where it stands."""
        self._started = True
        if not self._greenlet.dead:
            self._greenlet.throw()
