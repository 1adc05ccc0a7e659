"""Tests that try many cases: a few in `make test` or among the slow tests, many in `make soak`. All print how many."""

import functools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import seed, settings

long = False  # pytest's option --soak
start = random.SystemRandom().randrange(2**32)  # of the long run's random numbers; --soak-seed repeats a run
tried: Counter[str] = Counter()  # cases by surface, in the test that runs


def cases(short: int, many: int) -> int:
    """How many cases to try, without `--soak` and with it."""
    return many if long else short


def fuzz(surface: str, *, short: int = 60, many: int = 5000) -> Callable:
    """Decorator for a test with `@given`, to stand above it: how many examples to draw, and the surface they count for.

    In `make test`, the examples are always the same.
    """

    def decorate(test: Callable) -> Callable:
        inner = test.hypothesis.inner_test  # type: ignore[attr-defined]

        @functools.wraps(inner)
        def counted(*args, **kwargs):
            tried[surface] += 1
            return inner(*args, **kwargs)

        test.hypothesis.inner_test = counted  # type: ignore[attr-defined]
        test = settings(max_examples=cases(short, many), derandomize=not long)(test)
        return pytest.mark.soak(seed(start)(test) if long else test)

    return decorate
