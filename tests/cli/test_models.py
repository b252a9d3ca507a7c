"""`pictor models`."""

import json
from typing import Any


async def test_models_are_a_table_that_a_pipe_does_not_cut(office: Any):
    """
    Each model has a line with its whole id, its state, operations and limits, without any key.
    """
    outcome = await office.run("models", PICTOR_API_KEY="", PICTOR_DATA_DIR="elsewhere")
    lines = outcome.output.splitlines()

    assert outcome.status == 0
    assert lines[0].split() == ["MODEL", "STATE", "OPERATIONS", "LIMITS"]
    assert lines[1].startswith("pictor/shapes ")
    assert "no weights" in lines[1]
    assert "text-to-image, image-to-image, inpaint" in lines[1]
    assert "2048 chars" in lines[1]
    assert any(line.startswith("stable-diffusion-v1-5-pruned.safetensors ") for line in lines)
    assert len(lines) == 16


async def test_models_as_json_hold_everything(office: Any):
    """
    A program gets each model and its serving status as protobuf writes them.
    """
    outcome = await office.run("models", "--json")
    first = json.loads(outcome.output)[0]

    assert first["model"]["name"] == "models/pictor/shapes"
    assert first["model"]["limits"]["maxSidePx"] == 2048
    assert first["servingStatus"]["state"] == "STATE_NO_WEIGHTS"


async def test_a_stand_in_is_named(stand_in_shell: Any):
    """
    The list shows which models draw, and which are drawn by another.
    """
    lines = (await stand_in_shell.run("models")).output.splitlines()

    assert lines[1].split()[:2] == ["pictor/shapes", "ready"]
    assert lines[2].split()[:3] == ["black-forest-labs/FLUX.1-dev", "stand-in", "pictor/shapes"]


async def test_a_model_is_stopped_and_served_again(office: Any):
    """
    Both commands say what they have done, and the list shows it.
    """
    stopped = await office.run("models", "stop", "shapes")
    served = await office.run("models", "serve", "pictor/shapes", "--replicas", "2", "--pin")
    listed = (await office.run("models")).output.splitlines()[1]

    assert (stopped.status, served.status) == (0, 0)
    assert "pictor/shapes: stopped" in stopped.output
    assert served.output == "pictor/shapes: wanted by 2 device processes, pinned\n"
    assert "no weights, pinned" in listed


async def test_an_unknown_model_cannot_be_served(office: Any):
    """
    The error names the model, in one line.
    """
    outcome = await office.run("models", "serve", "nobody/nothing")

    assert outcome.status == 1
    assert "nobody/nothing" in outcome.errors
    assert len(outcome.errors.splitlines()) == 1
