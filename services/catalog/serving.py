"""
What is being served: the device processes' reports, and each model's status computed from them.

Reports live in memory only and run out: after a restart of the catalog they are back within two
seconds. A stand-in is a model that answers for every model whose weights no device process has.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pictor.catalog.v1.model_pb2 import Model
from pictor.catalog.v1.serving_pb2 import Replica, ReplicaModel, ServingStatus
from services.catalog.catalog import Catalog
from services.catalog.targets import DEFAULT, Target
from services.rpc.errors import Unavailable

HELD = (ServingStatus.STATE_READY, ServingStatus.STATE_LOADING)
AVAILABLE = (ServingStatus.STATE_READY, ServingStatus.STATE_ON_DEMAND)
STOPPED = "an operator has stopped it; `pictor models serve` starts it again"


@dataclass(frozen=True)
class Report:
    """
    What a device process said of itself.

    Attributes:
        models: What it said of each model, by canonical name.
        expires_at: When the report no longer holds, on the clock of Serving.
        adapters: The names of the adapters that it finds.
        embeddings: The words that stand for vectors.
    """

    models: dict[str, ReplicaModel]
    expires_at: float
    adapters: frozenset[str] = frozenset()
    embeddings: frozenset[str] = frozenset()


class Serving:
    """
    Knows what is being served.

    Args:
        catalog: The models that there are.
        stand_in: `models/...` of the model that answers for those without weights; empty for none.
        clock: Returns seconds, monotonic.
        targets: What operators want, by model.
    """

    def __init__(
        self,
        catalog: Catalog,
        stand_in: str,
        clock: Callable[[], float],
        targets: Mapping[str, Target] = MappingProxyType({}),
    ) -> None:
        self._catalog = catalog
        self._stand_in = stand_in
        self._clock = clock
        self._targets = dict(targets)
        self._reports: dict[str, Report] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def report(self, replica: Replica, ttl_seconds: float) -> None:
        """
        Replace what is known of a device process; a ttl of zero forgets it.

        Models that the catalog does not have are left out: the process may know an older catalog.
        """
        before = self.statuses()
        self._reports.pop(replica.replica_id, None)
        if ttl_seconds > 0:
            models = {}
            for told in replica.models:
                if model := self._catalog.find(told.model):
                    models[model.name] = told
            self._reports[replica.replica_id] = Report(
                models,
                self._clock() + ttl_seconds,
                frozenset(replica.adapters),
                frozenset(replica.embeddings),
            )
        if self.statuses() != before:
            self._wake()

    def aim(self, model: str, target: Target) -> None:
        """Take what an operator wants of a model."""
        self._targets[model] = target
        self._wake()

    def desired_models(self, replica: Replica) -> list[str]:
        """List the models that a device process ought to hold ready: the stand-in first."""
        told = {model.name for one in replica.models if (model := self._catalog.find(one.model))}
        names = [
            model.name
            for model in self._catalog.models
            if model.name in told and replica.replica_id in self._holders(model.name)
        ]
        return sorted(names, key=lambda name: name != self._stand_in)

    def stopped_models(self) -> list[str]:
        """List the models that no device process may hold."""
        return [name for name, target in self._targets.items() if target.desired_replicas == 0]

    def pinned_models(self) -> list[str]:
        """List the models that stay where they are loaded."""
        return [name for name, target in self._targets.items() if target.pinned]

    def adapters(self) -> list[str]:
        """Name the adapters of all device processes, in order."""
        return sorted(frozenset().union(*(report.adapters for report in self._live())))

    def embeddings(self) -> list[str]:
        """Name the embeddings of all device processes, in order."""
        return sorted(frozenset().union(*(report.embeddings for report in self._live())))

    def status(self, model: str) -> ServingStatus:
        """Tell what is being served of one model."""
        return self._status(model, list(self._live()))

    def statuses(self, models: Iterable[Model] | None = None) -> list[ServingStatus]:
        """Tell what is being served, of *models* or of all, in the order of the catalog."""
        reports = list(self._live())
        wanted = self._catalog.models if models is None else models
        return [self._status(model.name, reports) for model in wanted]

    async def changes(self, models: Sequence[Model]) -> AsyncIterator[list[ServingStatus]]:
        """
        Yield the status of all *models*, then those that differ from what was yielded.

        Raises:
            Unavailable: When the catalog stops.
        """
        known: dict[str, ServingStatus] = {}
        while True:
            # Taken before the yield, during which a report may come.
            changed = self._changed
            current = self.statuses(models)
            different = [status for status in current if known.get(status.model) != status]
            known = {status.model: status for status in current}
            if different:
                yield different
            await self._wait(changed)

    def close(self) -> None:
        """End all streams of changes."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, changed: asyncio.Event) -> None:
        """Wait for *changed*, and at most until a report runs out."""
        if not self._closed:
            expiry = min((report.expires_at for report in self._live()), default=None)
            delay = None if expiry is None else max(0.0, expiry - self._clock())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), delay)
        if self._closed:
            raise Unavailable("the catalog is stopping; watch again in a moment")

    def _live(self) -> Iterable[Report]:
        now = self._clock()
        for replica_id, report in list(self._reports.items()):
            if report.expires_at > now:
                yield report
            else:
                del self._reports[replica_id]

    def _holders(self, name: str) -> list[str]:
        """Name the device processes that ought to hold a model, those that do already first."""
        list(self._live())  # forgets those that have run out
        able = {
            replica_id: report.models[name].state
            for replica_id, report in self._reports.items()
            if name in report.models
        }
        ordered = sorted(able, key=lambda one: (able[one] not in HELD, one))
        return ordered[: self._target(name).desired_replicas]

    def _target(self, name: str) -> Target:
        return self._targets.get(name, DEFAULT)

    def _status(self, name: str, reports: Sequence[Report]) -> ServingStatus:
        told = [report.models[name] for report in reports if name in report.models]
        target = self._target(name)
        stopped = target.desired_replicas == 0
        if not told and not stopped and self._stand_in and name != self._stand_in:
            return self._stood_in(name, reports)
        state = ServingStatus.STATE_STOPPED if told and stopped else _state(told)
        available = state in AVAILABLE and not stopped
        desired = 1 if told or name == self._stand_in else 0
        return ServingStatus(
            model=name,
            state=state,
            available=available,
            ready_replicas=sum(one.state == ServingStatus.STATE_READY for one in told),
            desired_replicas=_first(target.desired_replicas, len(told) or desired),
            served_by=name if available else "",
            detail=STOPPED if stopped else _detail(told),
            pinned=target.pinned,
            loaded_fraction=max((one.loaded_fraction for one in told), default=0.0),
        )

    def _stood_in(self, name: str, reports: Sequence[Report]) -> ServingStatus:
        stand_in = self._status(self._stand_in, reports)
        detail = (
            f"drawn by {self._stand_in}, a stand-in: this machine has no weights of the model"
            if stand_in.available
            else f"no weights; {self._stand_in}, the stand-in, is not ready: {stand_in.detail}"
        )
        return ServingStatus(
            model=name,
            state=ServingStatus.STATE_NO_WEIGHTS,
            available=stand_in.available,
            ready_replicas=stand_in.ready_replicas,
            desired_replicas=1,
            served_by=stand_in.served_by,
            detail=detail,
        )


def _state(told: Sequence[ReplicaModel]) -> ServingStatus.State.ValueType:
    """Return the best of the states that the device processes reported."""
    states = {one.state for one in told}
    for state in (
        ServingStatus.STATE_READY,
        ServingStatus.STATE_ON_DEMAND,
        ServingStatus.STATE_LOADING,
        ServingStatus.STATE_FAILED,
        ServingStatus.STATE_STOPPED,
    ):
        if state in states:
            return state
    return ServingStatus.STATE_NO_WEIGHTS


def _first(number: int | None, otherwise: int) -> int:
    return otherwise if number is None else number


def _detail(told: Sequence[ReplicaModel]) -> str:
    state = _state(told)
    if state == ServingStatus.STATE_NO_WEIGHTS:
        return "no device process has weights of the model"
    if state == ServingStatus.STATE_LOADING:
        return "the weights are being loaded"
    if state == ServingStatus.STATE_ON_DEMAND:
        return "the weights are loaded when a job asks for them"
    if state == ServingStatus.STATE_FAILED:
        failed = next(one for one in told if one.state == state)
        return failed.detail or "the weights cannot be loaded"
    return ""
