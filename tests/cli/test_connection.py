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


@pytest.mark.parametrize("key", ["pk_é", "pk a", "pk_\udcff", "k" * 501])
async def test_what_is_no_key_is_one_line(office: Any, key: str):
    """
    What cannot be a key is refused before it is sent, and is not repeated.
    """
    outcome = await office.run("keys", "list", PICTOR_API_KEY=key)

    assert outcome.status == 1
    assert outcome.errors == (
        "error: what PICTOR_API_KEY holds is not an API key:"
        " a key is ASCII letters, digits, - and _\n"
    )


async def test_a_key_file_that_holds_no_key_is_one_line(office: Any, tmp_path: Path):
    """
    The file is named; its bytes stay where they are.
    """
    (tmp_path / "api-key").write_bytes(b"\xff\xfe")
    outcome = await office.run("keys", "list", PICTOR_DATA_DIR=str(tmp_path))

    assert outcome.status == 1
    assert outcome.errors.startswith(f"error: what {tmp_path / 'api-key'} holds is not an API key")


@pytest.mark.parametrize(
    ("option", "value", "bounds"),
    [
        ("--width", "700000000000", "1<=x<=16384"),
        ("--height", "0", "1<=x<=16384"),
        ("--steps", "0", "1<=x<=1000"),
        ("-n", "101", "1<=x<=100"),
        ("--guidance", "-1", "0<=x<=100"),
        ("--strength", "2", "0<=x<=1"),
    ],
)
async def test_an_absurd_number_names_option_value_and_range(
    nowhere: Any, option: str, value: str, bounds: str
):
    """
    A number that no model takes is refused by the option, before anything is asked.
    """
    outcome = await nowhere.run("generate", "a circle", "-o", "c.png", option, value)

    assert outcome.status == 2
    for part in (option, value, bounds):
        assert part in outcome.errors


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
