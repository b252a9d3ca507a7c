"""
Requests that nobody thought of, made by schemathesis from /openapi.json.

``make fuzz`` runs many more of them than the tests do.
"""

import asyncio
import os
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).with_name("fuzzing.toml")
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "5"))
# It never ends, so that a client cannot wait for its end.
ENDLESS = "/pictor/v1/servingStatuses:watch"


@pytest.mark.timeout(24 * 3600 if EXAMPLES > 100 else 300)
async def test_no_request_gets_an_answer_that_is_not_described(house, tmp_path):
    """
    Good and bad requests to every route: no defect, no undocumented status, no body or header that
    departs from its schema.
    """
    before = {job.name for job in await house.jobs()}
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run"],
        *[f"{house.url}/openapi.json", "--header", f"Authorization: Bearer {house.api_key}"],
        *["--exclude-path", ENDLESS, "--max-examples", str(EXAMPLES), "--mode", "all"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()

    assert process.returncode == 0, output
    assert int(re.search(r"(\d+) generated", output)[1]) > 500
    drawn = {job.dialect.partition("/")[0] for job in await house.jobs() if job.name not in before}
    assert len(drawn) > 1
