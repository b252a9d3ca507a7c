"""How the command ends when the suite cannot be reached or refuses."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMANDS = [
    (("models",), "127.0.0.1:1", "PICTOR_CATALOG_ADDRESS"),
    (("jobs",), "127.0.0.1:1", "PICTOR_INFERENCE_ADDRESS"),
    (("jobs", "cancel", "x"), "127.0.0.1:1", "PICTOR_INFERENCE_ADDRESS"),
    (("keys", "list"), "127.0.0.1:1", "PICTOR_ACCOUNTS_ADDRESS"),
    (("generate", "a circle", "-o", "x.png"), "127.0.0.1:1", "PICTOR_INFERENCE_ADDRESS"),
]


@pytest.mark.parametrize(("arguments", "address", "variable"), COMMANDS)
async def test_a_suite_that_is_not_running_is_one_line(
    nowhere: Any, arguments: tuple[str, ...], address: str, variable: str
):
    """
    Every command tells how to start the suite, or which variable leads to one.
    """
    outcome = await nowhere.run(*arguments)

    assert outcome.status == 1
    assert outcome.output == ""
    assert outcome.errors == (
        f"error: nothing listens on {address}; start the suite with 'make serve',"
        f" or set {variable}\n"
    )


async def test_a_missing_key_says_where_it_was_looked_for(office: Any, tmp_path: Path):
    """
    Without a key the command names the variable and the file.
    """
    outcome = await office.run("keys", "list", PICTOR_DATA_DIR=str(tmp_path / "other"))

    assert outcome.status == 1
    assert outcome.errors.startswith("error: no API key: PICTOR_API_KEY is not set, and ")
    assert str(tmp_path / "other" / "api-key") in outcome.errors
    assert outcome.errors.count("\n") == 1


async def test_the_key_file_of_the_suite_is_used(office: Any):
    """
    Who runs the suite needs to set no key.
    """
    assert (await office.run("keys", "list")).status == 0


async def test_a_refused_key_is_the_servers_sentence(office: Any):
    """
    A key that opens nothing ends with what the suite says of it.
    """
    outcome = await office.run("keys", "list", PICTOR_API_KEY="pk_wrong")

    assert outcome.status == 1
    assert outcome.errors.startswith("error: ")
    assert "Traceback" not in outcome.errors


async def test_a_bad_setting_names_variable_value_and_rule(nowhere: Any):
    """
    A variable that breaks its rule is named before anything is asked.
    """
    outcome = await nowhere.run("models", PICTOR_CATALOG_ADDRESS="somewhere")

    assert outcome.status == 1
    assert outcome.errors.startswith("error: PICTOR_CATALOG_ADDRESS='somewhere': must be host:port")


async def test_a_misspelt_option_is_status_2(nowhere: Any):
    """
    What click refuses ends with its usual status.
    """
    assert (await nowhere.run("models", "--jsn")).status == 2


async def test_serve_hands_the_stand_in_on(nowhere: Any):
    """
    `pictor serve --stand-in` runs the suite with that stand-in, which refuses an unknown one.
    """
    ports = {f"PICTOR_{part}_ADDRESS": "127.0.0.1:0" for part in ("ACCOUNTS", "CATALOG", "HTTP")}
    outcome = await nowhere.run("serve", "--stand-in", "pictor/shape", **ports)

    assert outcome.status == 1
    assert "PICTOR_STAND_IN='pictor/shape'" in outcome.errors
    assert "pictor/shapes" in outcome.errors


def test_the_command_starts_without_heavy_libraries():
    """
    Importing the command loads neither torch nor a database nor a web server.
    """
    code = (
        "import cli.__main__, sys;"
        "heavy = {'torch', 'diffusers', 'numpy', 'sqlalchemy', 'starlette'};"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout == "[]\n"
