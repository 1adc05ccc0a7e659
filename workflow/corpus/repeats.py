"""Texts that occur more than once: within a split, or in train as well as in dev or test."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from .rows import Row

EXAMPLES = 5


@dataclass
class Repeats:
    rows: int
    examples: list[tuple[int, int]]  # the line of a row, and the line where its text stands first

    @classmethod
    def at(cls, lines: np.ndarray, first: np.ndarray) -> Repeats:
        order = np.argsort(lines)[:EXAMPLES]
        return cls(len(lines), list(zip(lines[order].tolist(), first[order].tolist(), strict=True)))


class Texts:
    """What must be known of each row to find repeats: four numbers, so that a million rows take 32 MB.

    The numbers are hashes of 64 bits: that two of ten million texts share one has a probability of 3 in a million.
    """

    def __init__(self) -> None:
        self._numbers = array("q")

    def noting(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass the rows on, and keep what must be known of them."""
        for row in rows:
            # A row that says nothing about other labels asks about one: with another label, its text is no repeat.
            asked = 0 if row.complete else hash(next(iter(row.labels)))
            self._numbers.extend((hash(row.text), asked, hash(frozenset(row.labels.items())), row.line))
            yield row

    def _table(self) -> np.ndarray:
        return np.frombuffer(self._numbers, "int64").reshape(-1, 4) if self._numbers else np.empty((0, 4), "int64")

    def repeated(self) -> tuple[Repeats, Repeats]:
        """The rows whose text stands in an earlier row, too, and those of them that have other labels there."""
        table = self._table()
        order = np.lexsort((table[:, 1], table[:, 0]))  # keeps the order of lines
        text, asked, answer, line = table[order].T
        repeats = np.zeros(len(table), bool)
        repeats[1:] = (text[1:] == text[:-1]) & (asked[1:] == asked[:-1])
        first = np.maximum.accumulate(np.where(repeats, 0, np.arange(len(table))))[repeats]
        differs = answer[repeats] != answer[first]
        lines, first_lines = line[repeats], line[first]
        return Repeats.at(lines, first_lines), Repeats.at(lines[differs], first_lines[differs])

    def shared_with(self, train: Texts, same_file: bool) -> Repeats:
        """The rows whose text is in train. same_file: train has these rows, too; their own lines do not count."""
        mine, others = self._table(), train._table()
        if same_file:
            others = others[~np.isin(others[:, 3], mine[:, 3])]
        texts, first = np.unique(others[:, 0], return_index=True)
        shared = mine[np.isin(mine[:, 0], texts)]
        return Repeats.at(shared[:, 3], others[first[np.searchsorted(texts, shared[:, 0])], 3])
