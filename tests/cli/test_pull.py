"""`pictor models pull`, against a hub that is on this machine."""

import asyncio
import json
import os
import pathlib
import pty
import sys
from typing import Any

import pytest
import uvicorn
from rich.progress import Progress
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cli.pull import File, telling, wanted

COMMIT = "c" * 40
TOKEN = "hf_reads"
FILES = {
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "README.md": b"a card",
    "whole.safetensors": bytes(2000),
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.safetensors": bytes(1000),
    "unet/diffusion_pytorch_model.fp16.safetensors": bytes(500),
    "unet/diffusion_pytorch_model.bin": b"pickle",
    "tokenizer/merges.txt": b"a b",
    "unet/unet.py": b"code",
}
CHOSEN = {
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "tokenizer/merges.txt",
}


class Hub:
    """As much of a hub as its client asks for; counts what it hands out."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.taken: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/api/models/{owner}/{name}", self.describe),
                Route("/{owner}/{name}/resolve/{revision}/{path:path}", self.give),
            ]
        )

    async def describe(self, request: Request) -> Response:
        repository = "{owner}/{name}".format(**request.path_params)
        if repository not in self.files:
            return self._refusal(401, "RepoNotFound")
        siblings = [
            {"rfilename": path, "size": len(content)}
            for path, content in self.files[repository].items()
        ]
        return JSONResponse({"id": repository, "sha": COMMIT, "siblings": siblings})

    async def give(self, request: Request) -> Response:
        repository = "{owner}/{name}".format(**request.path_params)
        if repository in self.gated and request.headers.get("authorization") != f"Bearer {TOKEN}":
            return self._refusal(401, "GatedRepo")
        path = request.path_params["path"]
        if request.method == "GET":
            self.taken.append(path)
        content = self.files[repository][path]
        headers = {"ETag": f'"{abs(hash(content)):040x}"', "X-Repo-Commit": COMMIT}
        return Response(content, headers=headers)

    def _refusal(self, status: int, code: str) -> Response:
        return Response(status_code=status, headers={"X-Error-Code": code})


@pytest.fixture
async def hub() -> Any:
    """A hub with one repository for everybody and one for those who accepted its licence."""
    made = Hub()
    made.files = {"owner/model": dict(FILES), "black-forest-labs/FLUX.1-dev": dict(FILES)}
    made.gated = {"black-forest-labs/FLUX.1-dev"}
    server = uvicorn.Server(uvicorn.Config(made.app, port=0, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    made.port = server.servers[0].sockets[0].getsockname()[1]
    yield made
    server.should_exit = True
    await task


@pytest.fixture
def pull(nowhere: Any, hub: Hub, tmp_path: pathlib.Path) -> Any:
    """Pull, with that hub and a cache of its own; nothing else listens."""
    return pulling(nowhere, hub, tmp_path)


def pulling(shell: Any, hub: Hub | None, tmp_path: pathlib.Path) -> Any:
    environ = client_of(hub, tmp_path)

    async def pulled(*arguments: str, **more: str) -> Any:
        return await shell.run("models", "pull", *arguments, **{**environ, **more})

    return pulled


def client_of(hub: Hub | None, tmp_path: pathlib.Path) -> dict[str, str]:
    """The environment of the hub's client, whatever other tests have set."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.port if hub else 1}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "",
        "HF_HUB_OFFLINE": "0",
    }


def files_below(folder: pathlib.Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".cache" not in path.parts
    }


async def test_only_data_is_downloaded_into_the_cache(pull: Any, tmp_path: pathlib.Path):
    """
    Weights once, texts, no code and no pickles; where the hub's client looks for them.
    """
    outcome = await pull("owner/model")
    snapshot = tmp_path / "hf/hub/models--owner--model/snapshots" / COMMIT

    assert outcome.status == 0, outcome.errors
    assert files_below(snapshot) == CHOSEN
    assert (snapshot.parents[1] / "refs" / "main").read_text() == COMMIT
    assert outcome.output == f"owner/model is in {snapshot}\n"


async def test_a_folder_takes_the_files_where_they_are_found(pull: Any, tmp_path: pathlib.Path):
    """
    Below a model folder, under owner and name: there a device process looks for a repository.
    """
    outcome = await pull("owner/model", "--to", str(tmp_path / "models"))
    lines = outcome.output.splitlines()

    assert outcome.status == 0, outcome.errors
    assert files_below(tmp_path / "models" / "owner" / "model") == CHOSEN
    assert lines[0] == f"owner/model is in {tmp_path / 'models' / 'owner' / 'model'}"
    assert f"PICTOR_MODEL_FOLDERS names {tmp_path / 'models'}" in lines[1]


async def test_what_describes_the_whole_comes_last(pull: Any, hub: Hub):
    """
    A download that breaks off leaves nothing that would be taken for a checkpoint.
    """
    await pull("owner/model")

    assert hub.taken[-1] == "model_index.json"
    assert len(hub.taken) == len(CHOSEN)


async def test_what_is_there_is_not_downloaded_again(pull: Any, hub: Hub):
    """
    The same command goes on where another was stopped.
    """
    await pull("owner/model")
    hub.taken.clear()
    outcome = await pull("owner/model")

    assert outcome.status == 0
    assert hub.taken == []


async def test_a_gated_repository_says_what_to_do(pull: Any, hub: Hub):
    """
    One line: where the licence is accepted, and how the token is passed; with it, it works.
    """
    refused = await pull("black-forest-labs/FLUX.1-dev")
    allowed = await pull("black-forest-labs/FLUX.1-dev", HF_TOKEN=TOKEN)

    assert refused.status == 1
    *_, error = refused.errors.splitlines()
    assert error.startswith("error: black-forest-labs/FLUX.1-dev asks for its licence")
    assert "HF_TOKEN=" in error
    assert f"http://127.0.0.1:{hub.port}/black-forest-labs/FLUX.1-dev" in error
    assert allowed.status == 0


async def test_a_repository_that_is_not_shown_is_named(pull: Any):
    """
    There is none, or it is private: the hub does not say which.
    """
    outcome = await pull("owner/other")

    assert outcome.status == 1
    assert "shows no owner/other" in outcome.errors
    assert "Traceback" not in outcome.errors


async def test_pickles_alone_are_not_downloaded(pull: Any, hub: Hub):
    """
    Weights that nobody here would read stay where they are.
    """
    hub.files["owner/model"] = {"model_index.json": b"{}", "unet/model.bin": b"pickle"}
    outcome = await pull("owner/model")

    assert outcome.status == 1
    assert "has no .safetensors weights" in outcome.errors
    assert hub.taken == []


async def test_without_a_network_it_fails_at_once(nowhere: Any, tmp_path: pathlib.Path):
    """
    One line, within seconds, that says what to do instead.
    """
    pull = pulling(nowhere, None, tmp_path)
    async with asyncio.timeout(20):
        outcome = await pull("owner/model")
        offline = await pull("owner/model", HF_HUB_OFFLINE="1")

    assert outcome.status == 1
    (error,) = outcome.errors.splitlines()
    assert "cannot be reached" in error
    assert "owner/model below one of the PICTOR_MODEL_FOLDERS" in error
    assert offline.status == 1
    assert "HF_HUB_OFFLINE is set" in offline.errors


async def test_a_name_without_a_catalog_must_be_a_repository(pull: Any):
    """
    Without a suite nobody knows what an alias stands for.
    """
    outcome = await pull("qwen-image")

    assert outcome.status == 1
    assert "nothing listens" in outcome.errors
    assert "OWNER/NAME" in outcome.errors


async def test_the_catalog_says_where_weights_come_from(
    office: Any, hub: Hub, tmp_path: pathlib.Path
):
    """
    An alias leads to its repository; what has none is refused with where it would go.
    """
    hub.files["stable-diffusion-v1-5/stable-diffusion-v1-5"] = dict(FILES)
    pull = pulling(office, hub, tmp_path)
    found = await pull("v1-5-pruned")
    single = await pull("Realistic_Vision_V5.1")
    closed = await pull("gpt-image-1.5")
    unknown = await pull("nothing")

    assert found.status == 0, found.errors
    assert found.output.startswith("stable-diffusion-v1-5/stable-diffusion-v1-5 is in ")
    assert "put the file Realistic_Vision_V5.1.safetensors into" in single.errors
    assert "no public weights" in closed.errors
    assert "no model nothing" in unknown.errors


def test_weights_are_chosen_once():
    """
    Plain weights where there are any, the variant where there is nothing else; a repository that is
    a single file is taken as it is.
    """

    def chosen(*paths: str) -> list[str]:
        return [file.path for file in wanted([File(path, 1) for path in paths])]

    assert chosen("model_index.json", "unet/a.fp16.safetensors", "unet/a.safetensors") == [
        "unet/a.safetensors",
        "model_index.json",
    ]
    assert chosen("unet/a.fp16.safetensors", "vae/a.safetensors", "unet/a.bin") == [
        "unet/a.fp16.safetensors",
        "vae/a.safetensors",
    ]
    assert chosen("whole.safetensors", "notes.md") == ["whole.safetensors"]
    assert chosen("model_index.json", "whole.safetensors", "vae/a.safetensors") == [
        "vae/a.safetensors",
        "model_index.json",
    ]


async def test_torch_is_not_needed(hub: Hub, tmp_path: pathlib.Path):
    """
    Downloading wants none of what drawing wants.
    """
    code = (
        "import json, sys; from cli.pull import download;"
        "download('owner/model', None);"
        "print(json.dumps(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules))))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **client_of(hub, tmp_path)},
    )
    output, _ = await process.communicate()

    assert json.loads(output) == []


async def test_a_terminal_shows_how_far_it_is(nowhere: Any, hub: Hub, tmp_path: pathlib.Path):
    """
    The bytes that have come, of all that will.
    """
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "models", "pull", "owner/model"),
        cwd=nowhere.folder,
        env={
            **nowhere.environ,
            **client_of(hub, tmp_path),
            "TERM": "xterm",
            "COLUMNS": "120",
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=end,
    )
    assert await process.wait() == 0
    os.close(end)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)

    assert "owner/model" in shown
    assert "1.0/1.0 kB" in shown


def test_the_bar_moves_within_a_file():
    """
    A file of gigabytes is not silent until it is there.
    """
    with Progress(disable=True) as bar:
        task = bar.add_task("owner/model", total=10)
        told = telling(bar, task)(total=10, desc="weights", unit="B")
        told.update(4)
        told.update(3)
        told.close()

        assert bar.tasks[0].completed == 7
