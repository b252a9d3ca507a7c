"""`pictor models serve` and `stop`: which models are held ready."""

import click

from cli.connection import CliSettings, connected, run
from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.catalog.v1.serving_pb2 import ServingStatus

UpdateServingRequest = catalog_service_pb2.UpdateServingRequest


@click.command()
@click.argument("model")
@click.option(
    "--replicas",
    type=click.IntRange(1, 64),
    help="How many device processes hold it ready; without it, every one that has room.",
)
@click.option("--pin/--no-pin", default=False, help="Keep it loaded when others need room.")
@click.pass_obj
def serve(settings: CliSettings, /, model: str, replicas: int | None, pin: bool) -> None:
    """Hold MODEL ready, also after `pictor models stop`."""
    status = run(updated(settings, model, desired_replicas=replicas, pinned=pin))
    pinned = ", pinned" if status.pinned else ""
    click.echo(f"{_id(status)}: wanted by {_processes(status.desired_replicas)}{pinned}")


@click.command()
@click.argument("model")
@click.pass_obj
def stop(settings: CliSettings, /, model: str) -> None:
    """Give MODEL up: it leaves the memory, and requests for it are refused."""
    status = run(updated(settings, model, desired_replicas=0, pinned=False))
    click.echo(f"{_id(status)}: stopped; `pictor models serve {_id(status)}` starts it again")


async def updated(
    settings: CliSettings, model: str, *, desired_replicas: int | None, pinned: bool
) -> ServingStatus:
    """Tell the catalog what is wanted of a model, and return the model's status."""
    request = UpdateServingRequest(
        model=f"models/{model.removeprefix('models/')}",
        desired_replicas=desired_replicas,
        pinned=pinned,
    )
    async with connected(settings, "catalog") as channel:
        return await catalog_service_pb2_grpc.CatalogServiceStub(channel).UpdateServing(request)


def _id(status: ServingStatus) -> str:
    return status.model.removeprefix("models/")


def _processes(count: int) -> str:
    return "1 device process" if count == 1 else f"{count} device processes"
