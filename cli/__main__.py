"""
The `pictor` command.

The one place besides the processes' composition roots that reads the environment.
"""

import os

import click

from cli.connection import CliSettings, Failure
from cli.credits import credits_
from cli.generate import generate
from cli.jobs import jobs
from cli.keys import keys
from cli.models import models
from services.rpc.settings import SettingError, read


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pictor")
@click.pass_context
def pictor(context: click.Context) -> None:
    """
    Draw images on your own machine.

    Start the suite with `pictor serve`; the other commands talk to it. PICTOR_API_KEY holds the
    key, PICTOR_DATA_DIR and PICTOR_..._ADDRESS say where the suite is.
    """
    try:
        context.obj = read(CliSettings, os.environ)
    except SettingError as error:
        raise Failure(str(error)) from None


@pictor.command()
@click.option("--stand-in", metavar="MODEL", help="Draws for every model without weights.")
def serve(stand_in: str | None) -> None:
    """Run the whole suite until Ctrl-C."""
    # Imported here: every other command starts without torch's neighbours and the databases.
    from services import __main__ as suite  # noqa: PLC0415 - see the line above

    if stand_in is not None:
        os.environ["PICTOR_STAND_IN"] = stand_in
    suite.main()


for command in (generate, models, jobs, keys, credits_):
    pictor.add_command(command)


def main() -> None:
    """Run the command that the arguments name."""
    pictor(prog_name="pictor")


if __name__ == "__main__":
    main()
