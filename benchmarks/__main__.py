"""
Run benchmarks: ``python -m benchmarks [NAME ...]``, all of them by default.

A benchmark is a module of this package with a function ``measure() -> list[Row]``.
"""

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks.report import NotMeasurable, table

# What the benchmarks share.
SUPPORT = {
    "__main__",
    "bare_server",
    "checkpoints",
    "in_process",
    "over_grpc",
    "report",
    "spans",
    "subjects",
    "watched_suite",
}


def main(names: list[str]) -> None:
    """Run the named benchmarks, one after another, and print a table for each."""
    modules = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    known = sorted(modules - SUPPORT)
    for name in names or known:
        if name not in known:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(known)}")
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n{name}: {(module.__doc__ or '').strip().splitlines()[0]}\n", flush=True)
        try:
            print(table(module.measure()), flush=True)
        except NotMeasurable as lack:
            if names:
                sys.exit(f"{name} cannot be measured here: {lack}")
            print(f"not measured here: {lack}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
