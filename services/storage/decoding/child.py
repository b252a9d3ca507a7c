"""
The child: one image after the other, within limits of memory and time that the kernel keeps.

    python -m services.storage.decoding.child SOCKET_FD MEMORY_BYTES CPU_SECONDS

Each message on the socket is a JSON object with an operation and its arguments, and brings the open
files: the source, and for some the target. The answer is a JSON object with ``result`` or
``refusal``. What goes wrong in any other way ends the child, which the service takes for a refusal.
"""

import contextlib
import json
import os
import resource
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image

from services.storage.decoding import cleaning, describing, images, masks, scaling
from services.storage.decoding.refusal import Refusal

MESSAGE_BYTES = 64 * 1024
MOST_FILES = 2


def inspect(arguments: dict[str, Any], source: BinaryIO, *_: BinaryIO) -> Any:
    """Tell what an image is."""
    del arguments
    return images.inspect(source)


def clean(arguments: dict[str, Any], source: BinaryIO, target: BinaryIO) -> Any:
    """Tell what an image is, and write it clean if it is not; the answer ends with whether."""
    del arguments
    picture, is_changed = cleaning.clean(source, target)
    return [*picture, is_changed]


def mask(arguments: dict[str, Any], source: BinaryIO, target: BinaryIO) -> Any:
    """Write a mask's canonical form."""
    size, blur = arguments["size"], tuple(arguments["blur"])
    shape = {"size": tuple(size) if size else None, "blur": blur}
    masks.convert(source, target, **{**arguments, **shape})


def describe(arguments: dict[str, Any], source: BinaryIO, target: BinaryIO) -> Any:
    """Tell what an image is, and write what its file says."""
    return describing.describe(source, target, **arguments)


def resize(arguments: dict[str, Any], source: BinaryIO, target: BinaryIO) -> Any:
    """Write an image in another size."""
    scaling.resize(source, target, **{**arguments, "size": tuple(arguments["size"])})


def thumbnail(arguments: dict[str, Any], source: BinaryIO, target: BinaryIO) -> Any:
    """Write a small image; the answer is its size."""
    return scaling.thumbnail(source, target, arguments["width_px"])


OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (inspect, clean, mask, describe, resize, thumbnail)
}


def main(socket_fd: int, memory_bytes: int, cpu_seconds: int) -> None:
    """Answer until the service goes away."""
    # The rule is MOST_PIXELS, and Pillow's warning would be an error from another place.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    Image.preinit()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=socket_fd) as line:
        while True:
            message, files, _, _ = socket.recv_fds(line, MESSAGE_BYTES, MOST_FILES)
            if not message:
                return
            _limit_time(cpu_seconds)
            line.send(json.dumps(_answer(json.loads(message), files)).encode())


def _limit_time(cpu_seconds: int) -> None:
    """Let the kernel end this process when one image takes too long."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + cpu_seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _answer(message: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        modes = ("rb", "wb")
        files = [
            stack.enter_context(os.fdopen(*one)) for one in zip(descriptors, modes, strict=False)
        ]
        try:
            return {"result": OPERATIONS[message["operation"]](message["arguments"], *files)}
        except Refusal as error:
            refusal = error
        except MemoryError:
            refusal = images.too_much_memory()
    return {"refusal": [refusal.reason, refusal.message, refusal.metadata]}


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
