"""`pictor models`: which models there are, and which of them draw at the moment."""

import json
from dataclasses import dataclass

import click
from google.protobuf.json_format import MessageToDict

from cli import table
from cli.connection import CliSettings, connected, run
from cli.pull import pull
from cli.serving import serve, stop
from pictor.catalog.v1 import catalog_service_pb2, catalog_service_pb2_grpc
from pictor.catalog.v1.model_pb2 import Limits, Model, Operation
from pictor.catalog.v1.serving_pb2 import ServingStatus

HEADING = ("MODEL", "STATE", "OPERATIONS", "LIMITS")


@dataclass(frozen=True)
class Served:
    """A model and what is known of its serving."""

    model: Model
    status: ServingStatus


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known, as JSON.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """List the models: what they do, and whether they draw now."""
    if context.invoked_subcommand is None:
        show(context.obj, as_json)


for command in (pull, serve, stop):
    models.add_command(command)


def show(settings: CliSettings, as_json: bool) -> None:
    """Print the models, as a table or as JSON."""
    served = run(listed(settings))
    if as_json:
        click.echo(json.dumps([as_dict(one) for one in served], indent=2))
        return
    for line in table.lines([HEADING, *(row(one) for one in served)]):
        click.echo(line)


async def listed(settings: CliSettings) -> list[Served]:
    """Ask the catalog for all models and what is being served."""
    async with connected(settings, "catalog", public=True) as channel:
        catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        found: list[Model] = []
        request = catalog_service_pb2.ListModelsRequest()
        while True:
            page = await catalog.ListModels(request)
            found += page.models
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
        answer = await catalog.ListServingStatuses(catalog_service_pb2.ListServingStatusesRequest())
    statuses = {status.model: status for status in answer.serving_statuses}
    return [Served(model, statuses.get(model.name, ServingStatus())) for model in found]


def as_dict(one: Served) -> dict[str, object]:
    """Return a model and its status as protobuf's JSON has them."""
    return {"model": MessageToDict(one.model), "servingStatus": MessageToDict(one.status)}


def row(one: Served) -> tuple[str, str, str, str]:
    """Return a model's line of the table."""
    operations = (
        Operation.Name(operation).removeprefix("OPERATION_").lower().replace("_", "-")
        for operation in one.model.operations
    )
    name = one.model.name.removeprefix("models/")
    return name, state(one.status), ", ".join(operations), limits(one.model.limits)


def state(status: ServingStatus) -> str:
    """Say in a few words whether a model draws."""
    if status.served_by and status.served_by != status.model:
        return f"stand-in {status.served_by.removeprefix('models/')}"
    name = ServingStatus.State.Name(status.state).removeprefix("STATE_").lower().replace("_", " ")
    if status.state == ServingStatus.STATE_FAILED:
        return f"{name}: {status.detail}"
    if status.loaded_fraction and not status.ready_replicas:
        name += f", {status.loaded_fraction:.0%} read"
    return f"{name}, pinned" if status.pinned else name


def limits(bounds: Limits) -> str:
    """Say what a request may ask of a model."""
    images = (
        f"{bounds.min_input_images}..{bounds.max_input_images} input images"
        if bounds.max_input_images
        else "no input images"
    )
    sides = f"{bounds.min_side_px}..{bounds.max_side_px} px by {bounds.size_multiple_px}"
    return f"{sides}, {bounds.max_prompt_chars} chars, {bounds.max_step_count} steps, {images}"
