"""python -m benchmarks [--full] [floor encode finetune sweep workflow memory growth]"""

import argparse
import importlib

from .report import RESULTS

NAMES = ("floor", "encode", "finetune", "sweep", "workflow", "memory", "growth")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Writes benchmarks/results.")
    parser.add_argument("names", nargs="*", default=NAMES, choices=[[], *NAMES], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--full", action="store_true", help="more rounds and all of the data: hours")
    asked = parser.parse_args()
    for name in asked.names:
        print(importlib.import_module(f"benchmarks.{name}").run(asked.full).write(RESULTS))
