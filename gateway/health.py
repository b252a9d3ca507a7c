"""Whether the gateway lives, whether the suite can draw, and what is here."""

import asyncio
from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.dialect import Dialect
from gateway.suite import SERVICES, Suite
from pictor.catalog.v1 import catalog_service_pb2
from services.rpc.errors import SuiteError

PROBE_SECONDS = 2.0


async def livez(_request: Request) -> Response:
    """Say that the process answers."""
    return JSONResponse({"alive": True})


async def readyz(request: Request) -> Response:
    """Say whether a picture can be drawn now, and if not, what is missing."""
    suite: Suite = request.state.suite
    found = await asyncio.gather(*(_missing(suite, name) for name in SERVICES), _no_model(suite))
    missing = [one for one in found if one]
    if suite.stopping.begun:
        missing.append("the gateway is stopping")
    body = {"ready": not missing, "missing": missing}
    return JSONResponse(body, 503 if missing else 200, headers={"cache-control": "no-store"})


class Index:
    """
    Lists what is here.

    Args:
        dialects: All of them.
    """

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        apis = [
            {
                "name": dialect.title,
                "key": dialect.credential.value,
                "routes": [f"{one.method} {one.path}" for one in dialect.operations],
            }
            for dialect in dialects
        ]
        self._body = {
            "name": "Pictor",
            "description": "A self-hosted image-generation platform.",
            "documentation": [
                "GET /docs",
                "GET /openapi.json",
                "README.md and docs/ in the source",
            ],
            "apis": [*apis, {"name": "Pictor", "routes": ["/pictor/v1, as protos/pictor has it"]}],
            "health": ["GET /livez", "GET /readyz"],
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await JSONResponse(self._body)(scope, receive, send)


async def _missing(suite: Suite, name: str) -> str:
    health: Any = health_pb2_grpc.HealthStub(suite.channels[name])
    word = name.split(".")[1]
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
    except SuiteError:
        return f"the {word} service does not answer"
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return "" if serving else f"the {word} service is stopping"


async def _no_model(suite: Suite) -> str:
    try:
        listed = await suite.catalog.ListServingStatuses(
            catalog_service_pb2.ListServingStatusesRequest(), timeout=PROBE_SECONDS
        )
    except SuiteError:
        return "nothing tells which models are served"
    if any(status.available for status in listed.serving_statuses):
        return ""
    return "no model is being served; a device process with weights is needed"
