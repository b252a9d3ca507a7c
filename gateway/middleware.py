"""
What happens around every HTTP request: a request id, a clean principal, one log line, and an end to
the room that its body takes.
"""

import math
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth import ALLOWANCE
from gateway.bodies import BUDGET
from services.rpc.interceptors import REQUEST_ID_KEY
from services.rpc.principals import SUITE, become
from services.rpc.rates import WINDOW_SECONDS, Allowance

log = structlog.get_logger()

# A caller's own id is kept when it is fit to stand in logs and headers.
_FIT_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


class RequestLog:
    """
    Gives each request an id, sends it and the seconds back, and logs how it was answered.

    Args:
        app: The application within.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        become(SUITE)
        started, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers[REQUEST_ID_KEY] = request_id
                headers["x-process-time"] = f"{time.monotonic() - started:.4f}"
                headers.update(_allowance_headers(scope.get(ALLOWANCE)))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            BUDGET.release(scope)
            log.info(
                "http.answered",
                method=scope["method"],
                route=_route(scope),
                status=status,
                seconds=round(time.monotonic() - started, 4),
            )


def _allowance_headers(allowance: Allowance | None) -> dict[str, str]:
    """Write what is left to a key, as OpenAI's clients and as the IETF's draft have it."""
    if allowance is None:
        return {}
    reset = math.ceil(allowance.reset_seconds)
    return {
        "x-ratelimit-limit-requests": str(allowance.limit),
        "x-ratelimit-remaining-requests": str(allowance.remaining),
        "x-ratelimit-reset-requests": f"{reset}s",
        "ratelimit-policy": f'"requests";q={allowance.limit};w={WINDOW_SECONDS}',
        "ratelimit": f'"requests";r={allowance.remaining};t={reset}',
    }


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID_KEY, "")
    return given if _FIT_ID.fullmatch(given) else str(uuid.uuid4())


def _route(scope: Scope) -> str:
    # The route and not the path: whoever reads the log must not learn the URLs of images.
    return getattr(scope.get("route"), "path", "")
