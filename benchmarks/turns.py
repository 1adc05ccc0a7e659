"""Contenders take turns: A B C A B C ..., so that what the machine does besides hits all of them alike."""

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

THREADS = "2"  # of every contender


class Contender:
    """A worker, started when it is entered."""

    def __init__(self, name: str, work: str, python: str | Path = sys.executable, **settings: Any) -> None:
        self.name = name
        self.command = [str(python), "-m", "benchmarks.worker", work, json.dumps(settings, default=str)]

    def __enter__(self) -> Contender:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), THREADS)
        env = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self

    def ready(self) -> None:
        """Wait until it has loaded."""
        self._reply()

    def ask(self, **request: Any) -> dict[str, Any]:
        """One unit of work. Raises RuntimeError where the worker has died; why stands on stderr."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()  # the end of its input is the end of its work


class Goal(NamedTuple):
    """A ratio of one contender's rounds to another's."""

    contender: str
    against: str
    least: float | None = None
    most: float | None = None


class Spread(NamedTuple):
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass
class Measured:
    """One number of each contender, in each round."""

    what: str
    unit: str
    baseline: str
    rounds: list[dict[str, float]]  # by contender
    goals: list[Goal] = field(default_factory=list)

    @property
    def contenders(self) -> list[str]:
        return list(self.rounds[0])

    def values(self, contender: str) -> Spread:
        return Spread.of([values[contender] for values in self.rounds])

    def ratio(self, contender: str, against: str) -> Spread:
        """Within each round: what slows the machine for a minute slows both."""
        return Spread.of([values[contender] / values[against] for values in self.rounds])


def take_turns(contenders: Sequence[Contender], requests: Sequence[dict[str, Any]]) -> list[dict[str, dict[str, Any]]]:
    """RETURNS: for each request, which is a round, the replies by contender."""
    names = [contender.name for contender in contenders]
    with ExitStack() as stack, tqdm(total=len(requests) * len(contenders), disable=None) as bar:
        bar.set_description("loading")
        for contender in contenders:
            stack.enter_context(contender)
        for contender in contenders:
            contender.ready()
        rounds = []
        for request in requests:
            replies = []
            for contender in contenders:
                bar.set_description(contender.name)
                replies.append(contender.ask(**request))
                bar.update()
            rounds.append(dict(zip(names, replies, strict=True)))
    return rounds


def numbers(rounds: list[dict[str, dict[str, Any]]], key: str) -> list[dict[str, float]]:
    """One of the numbers of the replies."""
    return [{name: reply[key] for name, reply in replies.items() if key in reply} for replies in rounds]
