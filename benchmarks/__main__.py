"""python -m benchmarks [--full] [floor encode finetune sweep workflow memory growth]"""

import argparse
import importlib
from collections.abc import Sequence

from .report import RESULTS

NAMES = ("floor", "encode", "finetune", "sweep", "workflow", "memory", "growth")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """names: those that are given, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Writes benchmarks/results.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--full", action="store_true", help="more rounds and all of the data: hours")
    asked = parser.parse_args(given)
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    asked.names = asked.names or NAMES
    return asked


if __name__ == "__main__":
    asked = arguments()
    for name in asked.names:
        print(importlib.import_module(f"benchmarks.{name}").run(asked.full).write(RESULTS))
