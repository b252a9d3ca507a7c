"""WorkerService: hands assignments to the attempts, streams their reports, tells what is held."""

import contextlib
import math
from collections.abc import AsyncIterator

from grpc.aio import ServicerContext

from pictor.errors.v1 import error_reason_pb2
from pictor.worker.v1 import worker_pb2, worker_service_pb2_grpc
from pictor.worker.v1.worker_service_pb2 import (
    FinishRequest,
    FinishResponse,
    GetDeviceRequest,
    RenewRequest,
    RenewResponse,
    RunRequest,
    RunResponse,
)
from services.inference.worker.attempts import Attempts
from services.inference.worker.device import Device
from services.rpc.errors import invalid


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """
    Answers the inference service.

    Args:
        attempts: Runs what is assigned.
        device: Where they run.
    """

    def __init__(self, attempts: Attempts, device: Device) -> None:
        self._attempts = attempts
        self._device = device

    async def Run(
        self,
        request: RunRequest,
        context: ServicerContext[RunRequest, RunResponse],
    ) -> AsyncIterator[RunResponse]:
        """Draw, and report until it is done."""
        _require(request.assignment)
        left = context.time_remaining()
        limit = math.inf if left is None else left
        async with contextlib.aclosing(self._attempts.run(request.assignment, limit)) as reports:
            async for report in reports:
                yield RunResponse(report=report)

    async def GetDevice(
        self,
        request: GetDeviceRequest,
        context: ServicerContext[GetDeviceRequest, worker_pb2.Device],
    ) -> worker_pb2.Device:
        """Tell which models are loaded; never waits for the device's thread."""
        return worker_pb2.Device(name=self._device.name, models=sorted(self._device.models))

    async def Renew(
        self,
        request: RenewRequest,
        context: ServicerContext[RenewRequest, RenewResponse],
    ) -> RenewResponse:
        """Let attempts go on."""
        self._attempts.renew(request.lease.ToNanoseconds() / 1e9)
        return RenewResponse()

    async def Finish(
        self, request: FinishRequest, context: ServicerContext[FinishRequest, FinishResponse]
    ) -> FinishResponse:
        """Let an attempt end with what it has."""
        self._attempts.finish(request.job)
        return FinishResponse()


def _require(assignment: worker_pb2.Assignment) -> None:
    missing = {
        "job": not assignment.job,
        "account": not assignment.account,
        "generation": not assignment.HasField("generation"),
        "model": not assignment.model.name,
    }
    for field, is_missing in missing.items():
        if is_missing:
            raise invalid(
                f"assignment.{field}",
                f"assignment.{field} is required",
                error_reason_pb2.ERROR_REASON_FIELD_REQUIRED,
            )
