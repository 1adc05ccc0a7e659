"""Run contenders in separate processes and interleave their rounds.

The order is A B C A B C ..., so that other load on the machine affects all contenders alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tqdm import tqdm

from .data import ROOT

THREADS = "2"  # per contender


class Contender:
    """A worker process that runs one contender. Entering the context starts the process."""

    def __init__(self, name: str, target: str, python: str | Path = sys.executable, **settings: Any) -> None:
        """target: the callable to measure, as "module:name"; it is constructed with the settings."""
        self.name = name
        self.command = [str(python), "-m", "benchmarks.worker", target, json.dumps(settings, default=str)]

    def __enter__(self) -> Contender:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), THREADS)
        env = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def wait_until_ready(self) -> None:
        """Wait until the worker has loaded its model and data."""
        self._read_reply()

    def request(self, **arguments: Any) -> dict[str, Any]:
        """Run one round. Raises RuntimeError if the worker has exited; its traceback is on stderr."""
        assert self.process.stdin is not None
        print(json.dumps(arguments), file=self.process.stdin, flush=True)
        return self._read_reply()

    def _read_reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the worker exited with status {self.process.wait()}")
        return json.loads(line)

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()  # closes stdin, which ends the worker


class Goal(NamedTuple):
    """A bound on the ratio of one contender's values to those of another."""

    contender: str
    baseline: str
    at_least: float | None = None
    at_most: float | None = None


class Spread(NamedTuple):
    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass
class Measurement:
    """One value per contender and round."""

    title: str
    unit: str
    baseline: str
    rounds: list[dict[str, float]]  # one dict per round: contender -> value
    goals: list[Goal] = field(default_factory=list)

    @property
    def contenders(self) -> list[str]:
        return list(self.rounds[0])

    def values(self, contender: str) -> Spread:
        return Spread.of([values[contender] for values in self.rounds])

    def ratio(self, contender: str, baseline: str) -> Spread:
        """Ratios are taken within each round, because a temporary slowdown of the machine affects both values."""
        return Spread.of([values[contender] / values[baseline] for values in self.rounds])


def run_interleaved(
    contenders: Sequence[Contender], requests: Sequence[dict[str, Any]]
) -> list[dict[str, dict[str, Any]]]:
    """Run one round per request. RETURNS: for each round, the replies by contender."""
    names = [contender.name for contender in contenders]
    with ExitStack() as stack, tqdm(total=len(requests) * len(contenders), disable=None) as bar:
        bar.set_description("loading")
        for contender in contenders:
            stack.enter_context(contender)
        for contender in contenders:
            contender.wait_until_ready()
        rounds = []
        for request in requests:
            replies = []
            for contender in contenders:
                bar.set_description(contender.name)
                replies.append(contender.request(**request))
                bar.update()
            rounds.append(dict(zip(names, replies, strict=True)))
    return rounds


def extract(rounds: list[dict[str, dict[str, Any]]], key: str) -> list[dict[str, float]]:
    """Pick one value from each reply."""
    return [{name: reply[key] for name, reply in replies.items() if key in reply} for replies in rounds]
