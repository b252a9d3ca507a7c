"""Points at which a test ends a process."""

import ast
import pathlib
import subprocess
import sys

import pytest

from services.rpc.crash import POINTS, STATUS, arm, crash_point

ROOT = pathlib.Path(__file__).parents[3]
SOURCES = [p for folder in ("services", "gateway") for p in (ROOT / folder).rglob("*.py")]
# The database's two points exist once for each service that has one.
OF_EACH_SERVICE = (".before_commit", ".after_commit")


def code(path, *points):
    lines = ["from services.rpc.crash import arm, crash_point", f"arm({str(path)!r})"]
    return "\n".join([*lines, *(f"crash_point({point!r})" for point in points), "print('lives')"])


def passed(path, *points):
    """Pass points in a process of its own; return its status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code(path, *points)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.fixture
def named(tmp_path):
    """A file that names a point."""
    file = tmp_path / "crash"
    file.write_text("device.step")
    return file


def test_the_named_point_ends_the_process(named):
    """
    With the status of a process that was killed, and without another word.
    """
    status, printed = passed(named, "device.before_store", "device.step")

    assert status == STATUS
    assert "lives" not in printed
    assert not named.exists()


def test_a_point_is_good_for_one_process(named):
    """
    A process that was started again passes the point that ended it.
    """
    assert passed(named, "device.step")[0] == STATUS
    assert passed(named, "device.step") == (0, "lives\n")


def test_other_points_are_passed(named):
    """
    A file that names one point leaves the others alone, and stays.
    """
    assert passed(named, "device.before_store") == (0, "lives\n")
    assert named.exists()


def test_without_a_file_nothing_ends():
    """
    A suite that runs for its users has no such file.
    """
    arm("")
    for point in POINTS:
        crash_point(point)


def test_every_point_is_in_the_table_and_in_the_source():
    """
    The kill loop takes its points from the table; one that is not there is never tried.
    """
    called, suffixes = set(), set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "crash_point":
                (argument,) = node.args
                if isinstance(argument, ast.Constant):
                    called.add(argument.value)
                else:
                    suffixes.add(argument.values[-1].value)

    assert suffixes == set(OF_EACH_SERVICE)
    assert called == {point for point in POINTS if not point.endswith(OF_EACH_SERVICE)}
