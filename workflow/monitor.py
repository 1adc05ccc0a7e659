"""Print what `make repro` has found in recent text. The exit status is 3 if there is an alarm."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .engine import command, dag, params
from .engine.errors import Problem, printable
from .files import digest
from .records import costs, ledger, monitors

ALARM = 3  # exit status; 1 is an error


def main() -> None:
    parser = argparse.ArgumentParser("python -m workflow.monitor", description=__doc__)
    parser.add_argument("names", nargs="*", help="of monitor.corpora in params.yaml; none: all of them")
    names = parser.parse_args().names
    corpora = params.load().monitor.corpora
    if unknown := set(names) - corpora.keys():
        raise Problem(f"params.yaml: monitor.corpora has no {', '.join(sorted(unknown))}")
    wanted = {monitors.STAGE + name: corpora[name] for name in names or corpora}
    receipts = costs.receipts()
    missing = ledger.gaps(dag.load(), receipts)
    if gone := {stage: missing[stage] for stage in wanted if stage in missing}:
        raise Problem(ledger.explain(gone))
    for stage, source in wanted.items():
        if Path(source).exists() and digest(Path(source)) != receipts[stage]["deps"].get(source):
            raise Problem(f"{source} has changed since the last result: run `make repro`")
    found = monitors.found(costs.select(receipts, wanted))
    for line in monitors.lines(found):
        print(printable(line))
    if any(facts["alarms"] for facts in found.values()):
        sys.exit(ALARM)


if __name__ == "__main__":
    command.main("monitor", main)
