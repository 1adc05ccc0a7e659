"""Stream labelled rows from JSON Lines, CSV, TSV and Prodigy's exports."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..engine.errors import Problem


@dataclass
class Row:
    text: str
    labels: dict[str, bool]  # for each label that the row names, whether it applies
    complete: bool  # whether labels that the row does not name are false
    where: str  # file:line


@dataclass
class Tally:
    """Rows of one file that were not used."""

    skipped: list[str] = field(default_factory=list)  # file:line: reason
    rejected: int = 0  # Prodigy's answers "ignore", and "reject" if that leaves the label unknown


class BadRow(ValueError):
    """Why a row cannot be used."""


class NotAccepted(Exception):
    """Prodigy's answer assigns no label."""


def find(folder: Path, split: str) -> Path | None:
    """The file of a split, or None. Raises Problem if there are several."""
    paths = [folder / f"{split}{suffix}" for suffix in READERS if (folder / f"{split}{suffix}").is_file()]
    if len(paths) > 1:
        raise Problem(f"{folder}: {' and '.join(p.name for p in paths)} both exist: keep one")
    return paths[0] if paths else None


def read(
    path: Path, *, exclusive: bool, on_bad_row: str, tally: Tally, allowed_labels: set[str] | None = None
) -> Iterator[Row]:
    """Yield the usable rows of a file, and record the others in the tally.

    allowed_labels: the labels that may occur; None for any.
    Raises Problem at the first bad row if on_bad_row is "fail".
    """
    csv.field_size_limit(2**31 - 1)  # the default, 128 kB, is less than a long document
    with path.open("rb") as start:
        if b"\0" in start.read(4):  # no text begins like this in UTF-8
            raise Problem(
                f"{path}: UTF-16 or UTF-32, not UTF-8: convert it, for example with `iconv -f UTF-16 -t UTF-8`"
            )
    # Bytes that are not UTF-8 become lone surrogates, which no valid text contains.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        for line, parse in READERS[path.suffix](file):
            where = f"{path}:{line}"
            try:
                row = _row(parse(), where, exclusive)
                if allowed_labels is not None and not allowed_labels.issuperset(row.labels):
                    unknown, allowed = sorted(set(row.labels) - allowed_labels), ", ".join(sorted(allowed_labels))
                    raise BadRow(f"label {unknown[0]!r} does not occur in train (train has {allowed})")
            except NotAccepted:
                tally.rejected += 1
            except BadRow as reason:
                if on_bad_row == "fail":
                    raise Problem(f"{where}: {reason}. Fix the row, or set data.on_bad_row: skip") from None
                tally.skipped.append(f"{where}: {reason}")
            else:
                yield row


# Line number, and a function that returns the record or raises BadRow.
Parsed = Iterator[tuple[int, Callable[[], dict[str, Any]]]]


def _json_lines(file: Any) -> Parsed:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, partial(_json_object, line)


def _json_object(line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or thousands of nested brackets
        raise BadRow(f"JSON that Python cannot read ({error})") from None
    if not isinstance(record, dict):
        raise BadRow(f"expected a JSON object, found {type(record).__name__}")
    return record


COLUMNS = {"text", "label", "labels", "accept"}


def _delimited(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Any], Parsed]:
    def parse(file: Any) -> Parsed:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        try:
            header = next((cells for cells in reader if cells), None)
        except csv.Error as error:
            raise Problem(f"{file.name}:{max(1, reader.line_num)}: the header is malformed ({error})") from None
        if header is None:
            return
        columns = Counter(name for name in header if name in COLUMNS)
        if not columns["text"] or len(columns) < 2 or max(columns.values()) > 1:
            raise Problem(
                f"{file.name}:{reader.line_num}: the header is {delimiter.join(header)[:80]!r}: expected the columns "
                f"text and label (or labels, accept), each once, in lowercase, with {delimiter!r} between columns"
            )
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, partial(_raise, BadRow(f"malformed ({error})"))
            else:
                if cells:
                    yield line, partial(_record, header, cells)

    return parse


def _raise(error: Exception) -> Any:
    raise error


def _record(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(header):
        raise BadRow("more cells than columns in the header")
    record: dict[str, Any] = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
    for name in ("labels", "accept"):
        if name in header:
            record[name] = [part.strip() for part in record.get(name, "").split("|") if part.strip()]
    return record


READERS: dict[str, Callable[[Any], Parsed]] = {
    ".jsonl": _json_lines,
    ".csv": _delimited(",", csv.QUOTE_MINIMAL),
    ".tsv": _delimited("\t", csv.QUOTE_NONE),  # one row per line; quotes are literal
}


def _row(record: dict[str, Any], where: str, exclusive: bool) -> Row:
    text = record.get("text")
    if text is None:
        raise BadRow(f"it has no text{_instead(record)}")
    if not isinstance(text, str):
        raise BadRow(f"its text is not a string: {text!r}")
    if not text.strip():
        raise BadRow("its text has no words")
    labels, complete = _labels(record, exclusive)
    for value in (text, *labels):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow("not UTF-8: if the file is in Latin-1, `iconv -f LATIN1 -t UTF-8` converts it") from None
    if exclusive and sum(labels.values()) != 1:
        raise BadRow(f"expected one label (data.exclusive: true), found {sum(labels.values())}")
    return Row(text, labels, complete, where)


def _instead(record: dict[str, Any]) -> str:
    """What a row has instead of a key that it lacks: the same in capitals, perhaps."""
    return f", only {', '.join(map(repr, record))}" if record else ""


def _labels(record: dict[str, Any], exclusive: bool) -> tuple[dict[str, bool], bool]:
    answer = record.get("answer", "accept")
    if answer not in ("accept", "reject", "ignore"):
        raise BadRow(f"Prodigy's answer must be accept, reject or ignore, not {answer!r}")
    if answer == "ignore":
        raise NotAccepted
    if "accept" in record or "labels" in record:
        chosen = record.get("accept", record.get("labels"))
        if not isinstance(chosen, list) or not all(isinstance(label, str) and label.strip() for label in chosen):
            raise BadRow(f"expected a list of labels, found {chosen!r}")
        if answer == "reject":
            raise NotAccepted
        return dict.fromkeys((label.strip() for label in chosen), True), True
    label = record.get("label")
    if label is None:
        raise BadRow(f"it has no label{_instead(record)}")
    if not isinstance(label, str) or not label.strip():
        raise BadRow(f"its label is not a string with words: {label!r}")
    label = label.strip()
    if answer == "reject":
        if exclusive:
            raise NotAccepted
        return {label: False}, False
    # A binary Prodigy answer says nothing about other labels, unless classes are exclusive.
    return {label: True}, exclusive or "answer" not in record
