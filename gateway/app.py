"""The gateway as an ASGI application, put together from a list that can be read."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.auth import Door
from gateway.dialect import Dialect, Preferences
from gateway.facade import Facade
from gateway.health import Index, livez, readyz
from gateway.middleware import RequestLog
from gateway.native import PREFIX, NativeApi
from gateway.openapi import describe
from gateway.rates import Rates
from gateway.reference import reference_routes
from gateway.routes import Fallback, dialect_routes
from gateway.suite import Suite
from services.rpc.authentication import AccountsAuthenticator

ACCOUNTS = "pictor.accounts.v1.AccountsService"

OpenSuite = Callable[[], contextlib.AbstractAsyncContextManager[Suite]]


def build_app(
    open_suite: OpenSuite,
    preferences: Preferences,
    dialects: Sequence[Dialect],
    *,
    require_key: bool,
    rates: Rates,
) -> Starlette:
    """
    Put the application together.

    Args:
        open_suite: Opens the channels to the services; entered when the application starts.
        preferences: What the operator has chosen.
        dialects: The public APIs to serve.
        require_key: Whether callers without a good key are sent away.
        rates: How often one key may ask.
    """
    door = Door(require_key, rates)
    facade = Facade(door, preferences)
    native = NativeApi(door)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with open_suite() as suite:
            authenticator = AccountsAuthenticator(suite.channels[ACCOUNTS])
            yield {"suite": suite, "authenticator": authenticator}

    pages = [
        Route("/", Index(dialects), methods=["GET"]),
        Route("/livez", livez),
        Route("/readyz", readyz),
        *reference_routes(describe(dialects, native.bindings, preferences.base_url)),
    ]
    routes = [
        *pages,
        *dialect_routes(facade, dialects),
        Route(f"{PREFIX}/{{path:anything}}", native),
        Route("/{path:anything}", Fallback(dialects, [page.path for page in pages])),
    ]
    return Starlette(routes=routes, middleware=[Middleware(RequestLog)], lifespan=lifespan)
