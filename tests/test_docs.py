"""Every example in the README and the docs is run against a suite, as it stands there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = [
    pytest.param(language, code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, code) in enumerate(FENCE.findall(page.read_text()), 1)
]
COMMANDS = pathlib.Path(sys.executable).parent
INTERPRETERS = {
    "bash": [shutil.which("bash"), "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
}


def adapted(code, suite):
    """Put this suite's addresses in the place of the default ones."""
    code = code.replace("source .venv/bin/activate\n", "")
    for default, bound in (
        ("http://127.0.0.1:8000", suite.url),
        ("127.0.0.1:50053", suite.settings.inference_address),
        ("127.0.0.1:50054", suite.settings.storage_address),
    ):
        code = code.replace(default, bound)
    return code


@pytest.mark.parametrize(("language", "code"), EXAMPLES)
def test_a_documented_example_works(suite, tmp_path, language, code):
    """
    Pasted into a terminal beside a running suite, the example ends without an error.
    """
    (tmp_path / "data").symlink_to(suite.settings.data_dir)
    done = subprocess.run(
        [*INTERPRETERS[language], adapted(code, suite)],
        cwd=tmp_path,
        env={**os.environ, **suite.environ, "PATH": f"{COMMANDS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    """
    Each relative link of a page names a file that exists.
    """
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
