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
