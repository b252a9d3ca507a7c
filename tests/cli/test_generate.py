"""`pictor generate` and `pictor jobs`, against the whole suite."""

import asyncio
import json
import signal
from typing import Any

import pytest
from PIL import Image

QUICK = ("--steps", "2", "--seed", "7")
SLOW = ("--steps", "150", "-n", "10")


async def test_a_picture_is_drawn_into_a_file(shell: Any):
    """
    The file holds an image of the size that the line tells, and nothing else is left beside it.
    """
    outcome = await shell.run("generate", "a red circle", "-o", "circle.png", *QUICK)

    assert outcome.status == 0, outcome.errors
    assert outcome.output == "circle.png  256x256  seed 7\n"
    assert [file.name for file in shell.folder.iterdir()] == ["circle.png"]
    with Image.open(shell.folder / "circle.png") as image:
        assert (image.format, image.size) == ("PNG", (256, 256))


async def test_several_pictures_are_numbered(shell: Any):
    """
    Each image of -n has a file and a seed of its own.
    """
    outcome = await shell.run("generate", "a circle", "-o", "c.webp", "-n", "2", *QUICK)

    assert outcome.output.splitlines() == [
        "c-1.webp  256x256  seed 7",
        "c-2.webp  256x256  seed 8",
    ]
    with Image.open(shell.folder / "c-2.webp") as image:
        assert image.format == "WEBP"


async def test_a_seed_draws_the_same_picture_again(shell: Any):
    """
    The seed that was printed draws the picture again.
    """
    first = await shell.run("generate", "a circle", "-o", "a.png", "--steps", "2")
    seed = first.output.split()[-1]
    await shell.run("generate", "a circle", "-o", "b.png", "--steps", "2", "--seed", seed)

    with Image.open(shell.folder / "a.png") as a, Image.open(shell.folder / "b.png") as b:
        assert a.tobytes() == b.tobytes()


async def test_a_masked_part_of_an_image_is_repainted(shell: Any):
    """
    Where the mask is black the picture stays as it was.
    """
    Image.new("RGB", (256, 256), "navy").save(shell.folder / "photo.png")
    mask = Image.new("L", (256, 256), 0)
    mask.paste(255, (0, 0, 128, 256))
    mask.save(shell.folder / "mask.png")
    inputs = ("--input-image", "photo.png", "--mask", "mask.png", "--strength", "1")
    outcome = await shell.run("generate", "a circle", "-o", "new.png", *inputs, *QUICK)

    assert outcome.status == 0, outcome.errors
    with Image.open(shell.folder / "new.png") as image:
        assert image.getpixel((250, 128)) == (0, 0, 128)
        assert len(image.crop((0, 0, 120, 256)).getcolors(70000)) > 1


async def test_a_stand_in_signs_its_picture(stand_in_shell: Any):
    """
    Who asked for another model is told who drew.
    """
    flux = ("--model", "black-forest-labs/FLUX.1-dev", "--width", "256", "--height", "256")
    outcome = await stand_in_shell.run("generate", "a circle", "-o", "c.png", *flux, *QUICK)

    assert outcome.status == 0, outcome.errors
    assert outcome.output.rstrip().endswith("drawn by models/pictor/shapes, a stand-in")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "c.gif"), "its name must end in .png, .jpg, .jpeg, .webp"),
        (("-o", "no/where.png"), "its folder does not exist"),
        (("-o", "c.png", "--mask", "m.png"), "--mask needs an --input-image"),
        (("-o", "c.png", "--input-image", "absent.png"), "cannot read absent.png"),
        (("-o", "c.png", "--model", "pictor/shape"), "did you mean pictor/shapes?"),
        (("-o", "c.png", "--width", "8"), "8"),
    ],
)
async def test_what_cannot_be_drawn_is_one_line(
    shell: Any, arguments: tuple[str, ...], message: str
):
    """
    A request that cannot be fulfilled ends with one line and leaves no file.
    """
    outcome = await shell.run("generate", "a circle", *arguments)
    [line] = outcome.errors.splitlines()

    assert outcome.status == 1
    assert line.startswith("error: ")
    assert message in line
    assert list(shell.folder.iterdir()) == []


async def test_ctrl_c_cancels_the_job(shell: Any):
    """
    Interrupting the command ends the job too, and tells its name.
    """
    process = await shell.start("generate", "a circle", "-o", "c.png", *SLOW)
    job = await running_job(shell)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    shown = json.loads((await shell.run("jobs", "show", job)).output)

    assert process.returncode == 130
    assert f"canceled jobs/{job}" in errors.decode()
    assert shown["state"] == "STATE_CANCELED"
    assert list(shell.folder.iterdir()) == []


async def test_a_job_is_watched_and_canceled_by_its_id(shell: Any):
    """
    Another terminal can watch a job and end it; both see the same end.
    """
    process = await shell.start("generate", "a circle", "-o", "c.png", *SLOW)
    job = await running_job(shell)
    watcher = await shell.start("jobs", "watch", job)
    canceled = await shell.run("jobs", "cancel", job)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    _, watched = await asyncio.wait_for(watcher.communicate(), 30)

    assert canceled.output == f"jobs/{job}  canceled\n"
    assert process.returncode == 1
    assert errors.decode().startswith("error: ")
    assert watcher.returncode == 1
    assert watched == errors


async def test_finished_jobs_are_listed_and_shown(shell: Any):
    """
    The newest job is on top of the list; its details are JSON, and a watch of it ends at once.
    """
    await shell.run("generate", "a circle", "-o", "c.png", *QUICK)
    lines = (await shell.run("jobs", "--limit", "1", "--state", "succeeded")).output.splitlines()
    job = lines[1].split()[0]
    shown = json.loads((await shell.run("jobs", "show", f"jobs/{job}")).output)
    watched = await shell.run("jobs", "watch", job)

    assert lines[0].split() == ["JOB", "STATE", "MODEL", "MADE", "SECONDS"]
    assert len(lines) == 2
    assert shown["generation"]["seed"] == 7
    assert watched.output.startswith(shown["result"]["images"][0]["url"])


async def test_an_unknown_job_is_the_servers_sentence(shell: Any):
    """
    A job that is not there, or another's, ends with what the suite says of it.
    """
    outcome = await shell.run("jobs", "show", "5f0c")

    assert outcome.status == 1
    assert outcome.errors.startswith("error: ")
    assert "5f0c" in outcome.errors


async def running_job(shell: Any) -> str:
    """Wait for a job that is on a device; return its id."""
    for _ in range(100):
        lines = (await shell.run("jobs", "--state", "running")).output.splitlines()
        if len(lines) > 1:
            return lines[1].split()[0]
        await asyncio.sleep(0.05)
    raise AssertionError("no job is running")


async def test_jobs_are_found_and_deleted(shell: Any):
    """
    By model, time and prompt; what is deleted is in no list any more.
    """
    await shell.run("generate", "a yellow heart", "-o", "heart.png")
    wanted = ("--prompt", "Yellow HEART", "--model", "pictor/shapes", "--since", "1h")
    found = (await shell.run("jobs", *wanted)).output.splitlines()[1:]
    job = found[0].split()[0]
    deleted = await shell.run("jobs", "delete", job)
    left = (await shell.run("jobs", *wanted)).output
    none = (await shell.run("jobs", "--until", "2020-01-01")).output.splitlines()[1:]
    wrong = await shell.run("jobs", "--since", "yesterday")

    assert len(found) == 1
    assert deleted.output == f"jobs/{job}  deleted\n"
    assert job not in left
    assert none == []
    assert (wrong.status, "must be like 2026-11-21" in wrong.errors) == (2, True)
