"""
The reference of all routes: ``/openapi.json`` for programs, and ``/docs`` for people.

The page is three files of our own that no other host has a part in, and its content security policy
permits none: where the gateway stands there may be no internet.
"""

import pathlib
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

FOLDER = pathlib.Path(__file__).parent / "reference_page"
FILES = {
    "/docs": ("page.html", "text/html"),
    "/docs/page.js": ("page.js", "text/javascript"),
    "/docs/page.css": ("page.css", "text/css"),
}
_HEADERS = {
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


def reference_routes(document: dict[str, Any]) -> list[Route]:
    """Return the routes of the description and of the page that shows it."""
    described = JSONResponse(document, headers={"cache-control": "no-cache"}).body

    async def openapi(_request: Request) -> Response:
        # Pages of other origins may show it too: it holds nothing that is secret.
        return Response(
            described,
            media_type="application/json",
            headers={"cache-control": "no-cache", "access-control-allow-origin": "*"},
        )

    return [
        Route("/openapi.json", openapi),
        *(Route(path, _file(*file), name=path) for path, file in FILES.items()),
    ]


def _file(name: str, media_type: str) -> Any:
    content = (FOLDER / name).read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return answer
