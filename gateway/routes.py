"""
Which request is whose: the routes of all dialects, and the answer where there is none.

An unknown route is answered by the dialect with the longest prefix of the path, a known route with
another method by the dialect that has it; both in that dialect's own envelope.
"""

import importlib
import pkgutil
import re
from collections.abc import Sequence

from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, compile_path
from starlette.types import Receive, Scope, Send

import gateway.dialects
from gateway.answers import error_headers, refusal
from gateway.dialect import Dialect, Generate, Operation
from gateway.facade import Facade
from gateway.status import status_of
from pictor.errors.v1 import error_reason_pb2 as reasons
from services.rpc.errors import NotFound, SuiteError, Unsupported

_PARAMETER = re.compile(r"\{\w+(:path)?\}")


class _Anything(Convertor[str]):
    """What is left of a path, line breaks included, which Starlette's ``path`` stops at."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


def discover() -> list[Dialect]:
    """Return the dialect of every module in ``gateway/dialects``, in the order of their names."""
    package = gateway.dialects
    modules = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [importlib.import_module(module.name).DIALECT for module in modules]


def dialect_routes(facade: Facade, dialects: Sequence[Dialect]) -> list[Route]:
    """Return one route for each operation of each dialect."""
    return [
        _route(facade, dialect, operation)
        for dialect in dialects
        for operation in dialect.operations
    ]


def _route(facade: Facade, dialect: Dialect, operation: Operation) -> Route:
    route = Route(
        _matching_all(operation.path),
        facade.endpoint(dialect, operation),
        name=f"{dialect.name} {operation.method} {operation.path}",
    )
    route.methods = set(_methods(operation))
    return route


def _methods(operation: Operation) -> list[str]:
    """Return a method, and HEAD with GET, but where GET draws: HEAD is asked to look alone."""
    draws = isinstance(operation, Generate)
    return ["GET", "HEAD"] if operation.method == "GET" and not draws else [operation.method]


def _matching_all(path: str) -> str:
    """Let ``{name:path}`` take line breaks too: what has such a name is not found, in its words."""
    return path.replace(":path}", ":anything}")


class Fallback:
    """
    Answers what no route matches.

    Args:
        dialects: All of them.
        pages: The paths for GET that belong to no dialect.
    """

    def __init__(self, dialects: Sequence[Dialect], pages: Sequence[str] = ()) -> None:
        self._dialects = dialects
        self._pages = pages
        operations = [(one, dialect) for dialect in dialects for one in dialect.operations]
        # /v1/models/{m}:predict says more about its owner than /v1/models/{m:path} does.
        operations.sort(key=lambda pair: -len(_PARAMETER.sub("", pair[0].path)))
        self._patterns = [
            (compile_path(_matching_all(one.path))[0], one, dialect) for one, dialect in operations
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 where the path exists for other methods, else 404."""
        response = self._refuse(scope["method"], scope["path"])
        await response(scope, receive, send)

    def _refuse(self, method: str, path: str) -> Response:
        if path in self._pages:
            return plain_refusal(method_not_allowed(method, path, ["GET", "HEAD"]))
        matches = [(one, d) for pattern, one, d in self._patterns if pattern.match(path)]
        if not matches:
            return not_found_response(self._owner(path), path)
        error = method_not_allowed(method, path, [m for one, _ in matches for m in _methods(one)])
        return refusal(matches[0][1], error)

    def _owner(self, path: str) -> Dialect | None:
        owners = [
            (len(prefix), dialect)
            for dialect in self._dialects
            for prefix in dialect.prefixes
            if path == prefix or path.startswith(f"{prefix}/")
        ]
        return max(owners, key=lambda owner: owner[0])[1] if owners else None


def not_found_response(owner: Dialect | None, path: str) -> Response:
    """Answer that there is nothing at *path*, in the envelope of its owner."""
    error = NotFound(
        f"nothing is at {path[:100]}; GET / lists what is here",
        reason=reasons.ERROR_REASON_ROUTE_NOT_FOUND,
    )
    return refusal(owner, error) if owner else plain_refusal(error)


def plain_refusal(error: SuiteError) -> Response:
    """Answer with an error where no dialect has a say."""
    body = {"error": {"code": status_of(error, {}), "message": error.message}}
    return JSONResponse(body, status_of(error, {}), headers=error_headers(error))


def method_not_allowed(method: str, path: str, allowed: Sequence[str]) -> SuiteError:
    """Make the error for a path that exists for other methods."""
    allow = ", ".join(sorted(set(allowed)))
    return Unsupported(
        f"{method[:20]} is not for {path[:100]}; use {allow}",
        reason=reasons.ERROR_REASON_METHOD_NOT_ALLOWED,
        metadata={"allow": allow},
    )
