"""
The kill loop: ``python -m tests.chaos --rounds 50 --seed 1``.

Ends with status 1 if an invariant was violated, or if a crash point was tried again and again and
never reached.
"""

import argparse
import asyncio
import contextlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

from services.rpc import logs
from tests.chaos.faults import CRASH
from tests.chaos.processes import Processes
from tests.chaos.report import Run, summary, versions
from tests.chaos.rounds import Loop, Outcome
from tests.postgres import NotInstalledError, running_postgres

SERVICES = ("accounts", "catalog", "inference", "storage")
POSTGRESQL = "postgresql"
HEAD = """# What survives

Written by `make chaos REPORT=docs/chaos.md`; see `tests/chaos/README.md` for what it does. In each
round clients of all kinds are at work while processes are killed, die at named points, or stand
still for longer than their lease. When everything is quiet again, what the clients were told is
compared with what is there.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print what was seen, and return the exit status."""
    options = _options(arguments)
    logs.configure("error", "console")
    folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix="pictor-chaos-"))
    runs: list[Run] = []
    points: list[str] = []
    for database in options.database.split(","):
        try:
            runs.append(asyncio.run(_run(folder / database, database, options, points)))
        except NotInstalledError:
            _say(f"no rounds on {database}: it is not installed here")
    for run in runs:
        _say("\n".join(["", *summary(run)]))
    if options.report:
        _write(options.report, runs)
    unreached = _never_reached(runs)
    if unreached:
        _say(f"crash points that were tried and never reached: {', '.join(unreached)}")
    failed = bool(unreached) or any(run.violations for run in runs)
    if failed:
        _say(f"the logs of all processes lie in {folder}")
    elif not options.folder:
        shutil.rmtree(folder)
    return int(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description="Kill processes, and look.")
    parser.add_argument("--rounds", type=int, default=50, help="on each database")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real-rounds", type=int, default=0, help="of them, with torch")
    parser.add_argument(
        "--database", default="sqlite", help="sqlite, postgresql, or both with a comma"
    )
    parser.add_argument("--point", action="append", help="crash here, in every round")
    parser.add_argument("--report", type=pathlib.Path, help="write what was seen here")
    parser.add_argument("--folder", help="keep data and logs here")
    return parser.parse_args(arguments)


async def _run(
    folder: pathlib.Path, database: str, options: argparse.Namespace, points: list[str]
) -> Run:
    """Run all rounds on one database; *points* are those to begin with, and to go on with."""
    async with _databases(database) as urls:
        processes = Processes(folder, urls, replicas=2 if urls else 1)
        async with processes.running():
            loop = Loop(processes, options.seed)
            loop.plan.left = points
            async with loop.open():
                outcomes = [
                    await _round(loop, number, options) async for number in _numbers(loop, options)
                ]
                late = await loop.compare_all()
    points[:] = loop.plan.left
    return Run(options.seed, database, options.real_rounds, outcomes, late)


async def _numbers(loop: Loop, options: argparse.Namespace) -> AsyncIterator[int]:
    """Count the rounds; before the last ones, change to the real device process."""
    plain = options.rounds - options.real_rounds
    for number in range(options.rounds):
        if number == plain:
            await loop.use_real_device()
        yield number + 1


async def _round(loop: Loop, number: int, options: argparse.Namespace) -> Outcome:
    if options.point:
        loop.plan.left = list(options.point)
    outcome = await loop.round(loop.plan.next(only_crashes=bool(options.point)))
    for point in outcome.missed:
        loop.plan.missed(point)
    shown = "; ".join(map(str, outcome.faults))
    missed = f" (not reached: {', '.join(outcome.missed)})" if outcome.missed else ""
    bad = f"  {len(outcome.violations)} VIOLATIONS" if outcome.violations else ""
    jobs = outcome.states.total()
    _say(f"{number:>4}  {outcome.seconds:4.1f} s  {jobs:>3} jobs  {shown}{missed}{bad}")
    for violation in outcome.violations:
        _say(f"      {violation.invariant}  {violation.subject}  {violation.detail}")
    return outcome


@contextlib.asynccontextmanager
async def _databases(kind: str) -> AsyncIterator[dict[str, str]]:
    """Yield the URL of each service's database; nothing for SQLite."""
    if kind != POSTGRESQL:
        yield {}
        return
    with running_postgres() as cluster:
        yield {service: await cluster.database() for service in SERVICES}


def _never_reached(runs: Sequence[Run]) -> list[str]:
    """Name the crash points that were tried twice or more, and that no process ever came to."""
    tried = Counter(
        f.target for run in runs for o in run.outcomes for f in o.faults if f.kind == CRASH
    )
    reached = {point for run in runs for point in run.reached}
    return [point for point, count in tried.items() if count > 1 and point not in reached]


def _write(path: pathlib.Path, runs: Sequence[Run]) -> None:
    day = datetime.now(UTC).date().isoformat()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    lines = [HEAD, f"{day}, commit {commit}; {versions()}.", ""]
    for run in runs:
        lines += [*summary(run), ""]
    path.write_text("\n".join(lines))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is for the person who started it


if __name__ == "__main__":
    sys.exit(main())
