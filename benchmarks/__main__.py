"""Run benchmarks: python -m benchmarks [--full] [NAME ...]"""

import argparse
import importlib
from collections.abc import Sequence

from .report import RESULTS

BENCHMARKS = (
    *("matmul", "encode", "finetune", "sweep", "overhead", "memory", "scaling"),
    *("annotate", "distill", "audit", "select", "monitor", "quality"),
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Without names, all benchmarks are selected."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Run benchmarks and write their reports to benchmarks/results."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--full", action="store_true", help="more rounds and more data; takes hours")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}; choose from: {', '.join(BENCHMARKS)}")
    arguments.names = arguments.names or BENCHMARKS
    return arguments


if __name__ == "__main__":
    arguments = parse_arguments()
    for name in arguments.names:
        print(importlib.import_module(f"benchmarks.{name}").run(arguments.full).write(RESULTS))
