"""
A bare Starlette application that serves one file: ``python -m benchmarks.bare_server FILE``.

Prints its URL on standard output.
"""

import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route


def main(path: str) -> None:
    """Serve until the process ends."""

    async def file(request: Request) -> FileResponse:
        del request
        return FileResponse(path)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        config = uvicorn.Config(Starlette(routes=[Route("/", file)]), log_level="error")
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
