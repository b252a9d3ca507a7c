import dataclasses
import pathlib

import pytest

from cli.connection import CliSettings
from gateway import __main__ as gateway
from services.accounts import __main__ as accounts
from services.catalog import __main__ as catalog
from services.inference import __main__ as inference
from services.inference.executors import local
from services.inference.worker import __main__ as worker
from services.rpc.process import ProcessSettings
from services.rpc.settings import SettingError, describe, read
from services.storage import __main__ as storage
from tests.conftest import PORTS, run

PAGE = (pathlib.Path(__file__).parents[1] / "docs/settings.md").read_text()
PROCESSES = [accounts, catalog, inference, storage, gateway]


def settings_of(module):
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and ProcessSettings in value.__bases__
    )


CLASSES = [*(settings_of(module) for module in [*PROCESSES, worker, local]), CliSettings]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__module__)
def test_every_setting_is_documented(cls):
    """
    docs/settings.md has a row for each variable, with its default and its meaning.
    """
    for variable, default, meaning in describe(cls):
        shown = f"`{default}`" if default else "(empty)"
        assert f"| `{variable}` | {shown} | {meaning} |" in PAGE


@pytest.mark.parametrize(
    ("variable", "value", "rule"),
    [
        ("PICTOR_HTTP_ADDRESS", "8000", "must be host:port"),
        ("PICTOR_HTTP_ADDRESS", "127.0.0.1:70000", "from 0 to 65535"),
        ("PICTOR_PUBLIC_URL", "pictor.example.com", "must be an absolute URL"),
        ("PICTOR_LOG_LEVEL", "loud", "must be one of debug, info, warning, error"),
        ("PICTOR_JOB_ATTEMPTS", "0", "a whole number from 1"),
        ("PICTOR_JOB_TIME_LIMIT", "-1", "above 0"),
        ("PICTOR_JOB_TIME_LIMIT", "nan", "above 0"),
    ],
)
def test_a_bad_value_names_variable_value_and_rule(variable, value, rule):
    """
    A setting that breaks its rule stops the start with a sentence that a person can act upon.
    """
    with pytest.raises(SettingError, match=rule) as error:
        read(inference.Settings, {variable: value})

    assert f"{variable}='{value}'" in str(error.value)


@pytest.mark.parametrize(
    ("part", "variable", "value", "says"),
    [
        ("accounts", "PICTOR_ACCOUNTS_DATABASE_URL", "foo", "none that works here"),
        ("accounts", "PICTOR_ACCOUNTS_DATABASE_URL", "sqlite+aiosqlite:////no/x.db", "cannot open"),
        ("catalog", "PICTOR_STAND_IN", "nobody", "PICTOR_STAND_IN='nobody'"),
        ("inference", "PICTOR_DEVICE", "cuda9", "must be auto, cpu, mps, cuda or cuda:N"),
        ("storage", "PICTOR_STORAGE_URL", "ftp://x", "PICTOR_STORAGE_URL='ftp://x'"),
    ],
)
def test_a_process_that_cannot_start_says_why_in_a_line(tmp_path, part, variable, value, says):
    """
    Whatever is wrong with a setting, the process ends with one line and no traceback.
    """
    done = run(
        "-m", f"services.{part}", **PORTS, PICTOR_DATA_DIR=str(tmp_path), **{variable: value}
    )

    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_asking_for_help_shows_the_settings():
    """
    ``python -m services --help`` lists the variables and starts nothing.
    """
    assert "PICTOR_DATA_DIR" in run("-m", "services", "--help").stderr


def test_an_empty_variable_means_the_default():
    """
    ``PICTOR_X=`` is as good as no PICTOR_X.
    """
    assert read(ProcessSettings, {"PICTOR_LOG_LEVEL": ""}) == read(ProcessSettings, {})


def test_settings_do_not_change():
    """
    Settings are read once; nothing can write to them afterwards.
    """
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(ProcessSettings, {}).log_level = "debug"
