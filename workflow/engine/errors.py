"""Errors that the user can fix, and how text from data and settings is printed."""

from __future__ import annotations

import reprlib
from typing import Any


class Problem(Exception):
    """Printed as one line without a traceback; the exit code is 1. Names the file, line or key, and what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """A text as a terminal may get it: with codes for line breaks, escape sequences and changes of direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 120, 120

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 640 else f"a number of {x.bit_length()} bits"  # Python refuses 4300 digits


def brief(value: Any) -> str:
    """`repr`, shortened for values that are large, deep, or contain themselves."""
    return _SHORT.repr(value)


_SHORT = _Short()
