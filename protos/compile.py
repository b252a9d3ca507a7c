"""
Compile the protos: stubs for Python, and images for buf.

    python protos/compile.py stubs [FOLDER]     write the stubs in place, or below FOLDER
    python protos/compile.py lint               buf lint
    python protos/compile.py breaking [REF]     buf breaking against a git revision (default: HEAD)

buf reads images here instead of the .proto files, because google/api and google/rpc come with the
PyPI package googleapis-common-protos, and buf's own registry is not asked.
"""

import io
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import tempfile

import google.api
from grpc_tools import protoc

PROTOS = pathlib.Path(__file__).parent
GOOGLEAPIS = pathlib.Path(next(iter(google.api.__path__))).parents[1]
BUILTINS = pathlib.Path(protoc.__file__).parent / "_proto"
# The tools of the environment that runs this, whether or not it is the one on the PATH.
TOOLS = pathlib.Path(sysconfig.get_path("scripts"))
PLUGINS = [f"--plugin={TOOLS / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]


def compile_protos(root: pathlib.Path, *options: str, pattern: str = "*.proto") -> None:
    """Run protoc over the files of *root* that match; SystemExit if it refuses them."""
    files = sorted(str(path.relative_to(root)) for path in root.rglob(pattern))
    includes = [f"-I{root}", f"-I{GOOGLEAPIS}", f"-I{BUILTINS}"]
    if protoc.main(["protoc", *PLUGINS, *includes, *options, *files]) != 0:
        raise SystemExit("protoc refused the protos; its message is above")


def write_stubs(folder: pathlib.Path) -> None:
    """Write messages for every file and services where there is one, each with its types."""
    compile_protos(PROTOS, f"--python_out={folder}", f"--mypy_out=quiet:{folder}")
    services = "*_service.proto"
    compile_protos(
        PROTOS,
        f"--grpc_python_out={folder}",
        f"--mypy_grpc_out=quiet:{folder}",
        pattern=services,
    )


def build_image(root: pathlib.Path, image: pathlib.Path) -> pathlib.Path:
    """Write a self-contained descriptor set that buf can read."""
    compile_protos(
        root, f"--descriptor_set_out={image}", "--include_imports", "--include_source_info"
    )
    return image


def protos_at(revision: str, folder: pathlib.Path) -> pathlib.Path:
    """Unpack the protos of a git revision below *folder*."""
    archive = subprocess.run(
        ["git", "archive", revision, "protos"], cwd=PROTOS.parent, check=True, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "protos"


def buf(*arguments: str) -> int:
    """Run buf with the repository's buf.yaml."""
    return subprocess.run([TOOLS / "buf", *arguments], cwd=PROTOS.parent, check=False).returncode


def main(task: str, argument: str | None = None) -> int:
    """Run one of the tasks of the module's docstring and return the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if task == "stubs":
            write_stubs(pathlib.Path(argument) if argument else PROTOS)
            return 0
        image = build_image(PROTOS, folder / "now.binpb")
        if task == "lint":
            return buf("lint", str(image), "--path", "pictor")
        if task == "breaking":
            before = build_image(protos_at(argument or "HEAD", folder), folder / "before.binpb")
            return buf("breaking", str(image), "--against", str(before), "--path", "pictor")
    raise SystemExit(f"unknown task {task!r}; one of: stubs, lint, breaking")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
