"""
`pictor models pull`: downloads a model's weights from the hub; nothing else in Pictor downloads.

Only data are taken: .safetensors, and the texts that describe them. The description of the whole
comes last, so that a download that breaks off is not taken for a checkpoint.
"""

import importlib
import pathlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.connection import INTERRUPTED, CliSettings, Failure, connected, run
from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.catalog.v1.model_pb2 import Model
from services.rpc.errors import NotFound

INDEX = "model_index.json"
WEIGHTS = ".safetensors"
DATA = (WEIGHTS, ".json", ".txt", ".model")
# Second copies of weights, in another precision or for training.
VARIANTS = (".fp16", ".bf16", ".fp32", ".non_ema", ".ema")
ANSWER_SECONDS = 10.0


class File(NamedTuple):
    """A file of a repository: its path there, and its size."""

    path: str
    size_bytes: int

    @property
    def folder(self) -> str:
        """The part of the pipeline that it belongs to; empty for what describes the whole."""
        return self.path.rpartition("/")[0]

    @property
    def is_variant(self) -> bool:
        """Whether it is a second copy."""
        name = self.path.rpartition("/")[2]
        return any(mark in name for mark in VARIANTS)


@click.command()
@click.argument("model")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    metavar="FOLDER",
    help="A model folder, in which the weights get a folder; without: the hub's own cache.",
)
@click.pass_obj
def pull(settings: CliSettings, model: str, to: pathlib.Path | None) -> None:
    """
    Download the weights of MODEL from the hub: an id of the catalog, or OWNER/NAME.

    A device process finds them by itself. HF_TOKEN holds the token for repositories whose licence
    must be accepted first.
    """
    repository = repository_of(settings, model)
    try:
        place = download(repository, to / repository if to else None)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on with the files that are missing", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    click.echo(f"{repository} is in {place}")
    if to:
        click.echo(f"a device process finds it where PICTOR_MODEL_FOLDERS names {to.absolute()}")


def repository_of(settings: CliSettings, model: str) -> str:
    """
    Return the repository that holds a model's weights.

    A catalog that does not know the id, or does not run, is no hindrance to OWNER/NAME.

    Raises:
        Failure: If the model has no repository, or nobody can say which.
    """
    try:
        known = run(_known(settings, model))
    except Failure as failure:
        if _is_repository(model):
            return model
        raise Failure(
            f"{failure.message}; or name the repository itself: pictor models pull OWNER/NAME"
        ) from None
    if known is None and _is_repository(model):
        return model
    if known is None:
        raise Failure(f"no model {model}; 'pictor models' lists them, or name OWNER/NAME")
    source = known.checkpoint.WhichOneof("source")
    if source == "hub_repository":
        return known.checkpoint.hub_repository
    if source:
        place = getattr(known.checkpoint, source)
        raise Failure(
            f"{model} is in no repository that Pictor knows: put the {source} {place} into one of"
            " the PICTOR_MODEL_FOLDERS yourself"
        )
    raise Failure(f"{model} has no public weights: its maker alone serves it")


def download(repository: str, folder: pathlib.Path | None) -> str:
    """
    Download what of a repository is data.

    Args:
        repository: ``owner/name``.
        folder: Takes the files; None: the hub's cache.

    Returns:
        Where they lie.

    Raises:
        Failure: With one line that says what to do, if they cannot be had.
    """
    # Imported here: every other command starts without it.
    hub = importlib.import_module("huggingface_hub")
    for module in ("constants", "errors", "utils.logging"):
        importlib.import_module(f"huggingface_hub.{module}")
    hub.utils.logging.set_verbosity_error()
    with _failures(hub, repository):
        listed = hub.HfApi().model_info(repository, files_metadata=True, timeout=ANSWER_SECONDS)
        files = wanted([File(file.rfilename, file.size or 0) for file in listed.siblings])
        if not any(file.path.endswith(WEIGHTS) for file in files):
            raise Failure(
                f"{repository} has no {WEIGHTS} weights, and Pictor reads no others: they are code"
            )
        return _fetch(hub, repository, files, folder)


def wanted(files: Sequence[File]) -> list[File]:
    """Choose what a pipeline is loaded from: data, and each of its weights once."""
    data = [file for file in files if file.path.endswith(DATA)]
    if any(file.path == INDEX for file in data):
        # The whole model once more, in a single file.
        data = [file for file in data if file.folder or not file.path.endswith(WEIGHTS)]
    plain = {f.folder for f in data if f.path.endswith(WEIGHTS) and not f.is_variant}
    chosen = [file for file in data if not (file.is_variant and file.folder in plain)]
    return sorted(chosen, key=lambda file: (file.path == INDEX, file.path))


async def _known(settings: CliSettings, model: str) -> Model | None:
    async with connected(settings, "catalog", public=True) as channel:
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        try:
            request = catalog_service_pb2.GetModelRequest(name=f"models/{model}")
            return await catalog.GetModel(request)
        except NotFound:
            return None


def _is_repository(name: str) -> bool:
    owner, slash, rest = name.partition("/")
    return bool(owner and slash and rest and "/" not in rest)


def _fetch(hub: Any, repository: str, files: Sequence[File], folder: pathlib.Path | None) -> str:
    place, done = "", 0
    with _bar(repository, sum(file.size_bytes for file in files)) as (bar, task):
        for file in files:
            place = hub.hf_hub_download(
                repository, file.path, local_dir=folder, tqdm_class=telling(bar, task)
            )
            done += file.size_bytes
            # What was there already has told of no bytes.
            bar.update(task, completed=done)
    return str(pathlib.Path(place).parent if files[-1].path == INDEX else folder or place)


@contextmanager
def _bar(repository: str, size_bytes: int) -> Iterator[tuple[Progress, Any]]:
    console = Console(stderr=True)
    columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        console=console,
        disable=not console.is_terminal,
    )
    if not console.is_terminal:
        click.echo(f"downloading {repository}, {size_bytes / 1e9:.1f} GB", err=True)
    with bar:
        yield bar, bar.add_task(repository, total=size_bytes)


def telling(bar: Progress, task: Any) -> Any:
    """Make a class of the bars that the hub's client knows, which moves this one."""

    def update(_: Any, n: float | None = 1) -> None:
        bar.advance(task, n or 0)

    def start(self: Any, *given: Any, **named: Any) -> None:
        silent.__init__(self, *given, **{**named, "disable": True})

    silent = importlib.import_module("tqdm").tqdm
    return type("Telling", (silent,), {"__init__": start, "update": update})


@contextmanager
def _failures(hub: Any, repository: str) -> Iterator[None]:
    """Say in one line why the hub gives nothing, and what to do."""
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    token = "HF_TOKEN=hf_... pictor models pull"  # noqa: S105 - words, not a token
    try:
        yield
    except errors.GatedRepoError:
        raise Failure(
            f"{repository} asks for its licence to be accepted: do so on {endpoint}/{repository},"
            f" make a token that may read, and pass it: {token} {repository}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise Failure(
            f"{endpoint} shows no {repository}: there is none, or it is private, and wants a token"
            f" that may read it: {token} {repository}"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise Failure(
                f"{endpoint} refuses the token for {repository} ({status}); pass another: {token}"
                f" {repository}"
            ) from None
        raise Failure(f"{endpoint} answers {status} for {repository}; try again later") from None
    except errors.OfflineModeIsEnabled:
        raise Failure(
            "HF_HUB_OFFLINE is set, so nothing is downloaded; unset it for this command"
        ) from None
    except errors.HFValidationError:
        raise Failure(f"{repository!r} is not a repository's name; it is OWNER/NAME") from None
    except (errors.HTTPError, errors.LocalEntryNotFoundError, TimeoutError, ConnectionError):
        raise Failure(
            f"{endpoint} cannot be reached; without a network, copy the folder of {repository} from"
            f" another machine to {repository} below one of the PICTOR_MODEL_FOLDERS"
        ) from None
    except OSError as error:
        raise Failure(f"{repository} cannot be written: {error.strerror or error}") from None
