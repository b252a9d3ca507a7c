"""
What is being served: the device processes' reports, and each model's status computed from them.

Reports live in memory only and run out: after a restart of the catalog they are back within two
seconds. A stand-in is a model that answers for every model whose weights no device process has.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from pictor.catalog.v1 import serving_pb2
from pictor.catalog.v1.model_pb2 import Model
from pictor.catalog.v1.serving_pb2 import Replica, ReplicaModel, ServingStatus
from services.catalog.catalog import Catalog
from services.rpc.errors import Unavailable


@dataclass(frozen=True)
class Report:
    """
    What a device process said of itself.

    Attributes:
        models: What it said of each model, by canonical name.
        expires_at: When the report no longer holds, on the clock of Serving.
    """

    models: dict[str, ReplicaModel]
    expires_at: float


class Serving:
    """
    Knows what is being served.

    Args:
        catalog: The models that there are.
        stand_in: `models/...` of the model that answers for those without weights; empty for none.
        clock: Returns seconds, monotonic.
    """

    def __init__(self, catalog: Catalog, stand_in: str, clock: Callable[[], float]) -> None:
        self._catalog = catalog
        self._stand_in = stand_in
        self._clock = clock
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
            self._reports[replica.replica_id] = Report(models, self._clock() + ttl_seconds)
        if self.statuses() != before:
            self._wake()

    def desired_models(self, replica: Replica) -> list[str]:
        """List the models that a device process ought to hold ready: the stand-in first."""
        told = {model.name for one in replica.models if (model := self._catalog.find(one.model))}
        names = [model.name for model in self._catalog.models if model.name in told]
        return sorted(names, key=lambda name: name != self._stand_in)

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

    def _status(self, name: str, reports: Sequence[Report]) -> ServingStatus:
        told = [report.models[name] for report in reports if name in report.models]
        if not told and self._stand_in and name != self._stand_in:
            return self._stood_in(name, reports)
        ready = sum(one.state == serving_pb2.ServingStatus.STATE_READY for one in told)
        return ServingStatus(
            model=name,
            state=_state(told),
            available=ready > 0,
            ready_replicas=ready,
            desired_replicas=1 if told or name == self._stand_in else 0,
            served_by=name if ready else "",
            detail=_detail(told),
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
        ServingStatus.STATE_LOADING,
        ServingStatus.STATE_FAILED,
    ):
        if state in states:
            return state
    return ServingStatus.STATE_NO_WEIGHTS


def _detail(told: Sequence[ReplicaModel]) -> str:
    state = _state(told)
    if state == ServingStatus.STATE_NO_WEIGHTS:
        return "no device process has weights of the model"
    if state == ServingStatus.STATE_LOADING:
        return "the weights are being loaded"
    if state == ServingStatus.STATE_FAILED:
        failed = next(one for one in told if one.state == state)
        return failed.detail or "the weights cannot be loaded"
    return ""
