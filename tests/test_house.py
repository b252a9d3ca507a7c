"""The lines that the architecture draws, held by reading every import."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("services", "gateway", "cli")
FILES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.is_file()
)
SHARED = (
    "services.rpc",
    "services.database",
    "services.migrations",
    "services.outbound",
    "services.paging",
    "services.timestamps",
)
SERVICES = ("accounts", "catalog", "inference", "storage")
NAMELESS = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}

# Library -> the places that may import it.
FENCES = {
    "torch": ("services/inference/worker/",),
    "diffusers": ("services/inference/worker/",),
    "transformers": ("services/inference/worker/",),
    "boto3": ("services/storage/backends/s3.py",),
    "sqlalchemy": (
        "services/database.py",
        "services/migrations.py",
        *(f"services/{name}/store.py" for name in SERVICES),
        *(f"services/{name}/migrations/" for name in SERVICES),
    ),
    "asyncpg": ("services/database.py",),
    "alembic": ("services/migrations.py", *(f"services/{name}/migrations/" for name in SERVICES)),
    "httpx": (
        "services/outbound.py",
        "services/storage/remote.py",
        "services/inference/webhooks.py",
    ),
    # What callers send is decoded in storage's children, which are bounded, and nowhere else.
    "PIL": ("services/storage/decoding/", "services/inference/worker/"),
    "starlette": ("gateway/",),
    "uvicorn": ("gateway/",),
    "click": ("cli/",),
    "rich": ("cli/",),
}
# Places where pure code lives: no transport may be imported there.
PURE = ("gateway/dialects/", "services/inference/worker/families/")


def name_of(path):
    return str(path.relative_to(ROOT))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imports(path, *, top_level_only=False):
    """Yield the dotted name of everything that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_its_room_may(path):
    """
    Libraries stay behind their fences; services know each other by their stubs alone.
    """
    place = name_of(path)
    for imported in imports(path):
        library = imported.partition(".")[0]
        if library in FENCES:
            assert place.startswith(FENCES[library]), imported
        if place.startswith(PURE):
            assert library not in ("grpc", "starlette", "httpx"), imported
        assert library != "protos", imported
        if library == "services" and place != "services/__main__.py":
            assert may_import_service(place, imported), imported


def may_import_service(place, imported):
    if place.startswith("services/rpc/"):
        return below(imported, "services.rpc") or imported == "services"
    if place == "cli/__main__.py":
        return imported == "services" or below(imported, "services.__main__", "services.rpc")
    if place.startswith(("gateway/", "cli/")):
        return below(imported, "services.rpc")
    own = place.split("/")[1]
    return below(imported, *SHARED, f"services.{own}") or imported == "services"


def test_no_module_imports_itself_through_others():
    """
    The imports of the whole project, taken when a module is loaded, have no cycle.
    """
    graph = {}
    for path in FILES:
        module = module_of(path)
        found = {name for name in imports(path, top_level_only=True) if name in MODULES}
        graph[module] = found - {module}

    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_composition_roots_read_the_environment(path):
    """
    ``os.environ`` is read once, in a ``__main__.py``, and nowhere else.
    """
    if path.name == "__main__.py":
        return
    names = {
        f"{n.value.id}.{n.attr}"
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    assert not names & {"os.environ", "os.getenv"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_is_named_for_what_it_defines(path):
    """
    No module is called utils, helpers or anything of the kind.
    """
    assert path.stem not in NAMELESS


def test_the_protos_are_no_package_of_ours():
    """
    Stubs are imported as ``pictor....``; no ``__init__.py`` lies below protos/.
    """
    assert not list((ROOT / "protos").rglob("__init__.py"))


def test_no_part_but_the_device_process_needs_torch():
    """
    A client, a gateway and the services start without torch, which only one extra installs.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, wanted in project["optional-dependencies"].items():
        names = {re.split(r"[\[>]", requirement)[0] for requirement in wanted}
        assert extra == "worker" or not names & {"torch", "diffusers", "transformers"}
    code = (
        "import sys, cli.__main__, gateway.__main__, services.__main__;"
        "sys.exit(bool({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_device_process_does_not_wait_for_the_suites_imports():
    """
    What the suite imports before it starts its device process is neither a service nor a gateway.
    """
    code = (
        "import sys, services.__main__, services.inference.executors.local;"
        "sys.exit(bool({'sqlalchemy', 'starlette', 'uvicorn', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_requirement_is_pinned():
    """
    constraints.txt holds a version of each library that pyproject.toml names.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *(r for extra in extras for r in extra)]
    wanted += project["dependency-groups"]["dev"]
    names = {r.split(">")[0].split("[")[0].lower() for r in wanted} - {"pictor"}
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }

    assert names <= pinned
