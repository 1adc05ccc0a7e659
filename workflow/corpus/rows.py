"""Stream rows, labelled or not, from JSON Lines, CSV, TSV, Parquet, and the exports of Prodigy and spaCy."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, TypeVar

from ..engine.errors import Problem, brief, printable
from ..engine.params import Data

# Characters. Longer ones are refused, so that memory does not depend on what is in a file: a line without end, a quote
# that is never closed, a text that takes gigabytes as tokens.
LONGEST_TEXT = 10_000_000
LONGEST_RECORD = 2**27
STDIN = Path("/dev/stdin")
LISTED = 100  # reasons that a tally keeps
NAMED = 10  # labels or keys in a message


@dataclass
class Row:
    text: str
    labels: dict[str, bool]  # for each label that the row names, whether it applies
    complete: bool  # whether labels that the row does not name are false
    where: str  # file:line
    line: int


@dataclass
class Tally:
    """Rows of one file that were not used."""

    skipped: int = 0
    reasons: list[str] = field(default_factory=list)  # file:line: reason, of the first skipped rows
    rejected: int = 0  # Prodigy's answers "ignore", and "reject" if that leaves the label unknown
    blank: int = 0  # lines
    log: Callable[[str], None] | None = None  # gets the reason of every skipped row

    def skip(self, reason: str) -> None:
        self.skipped += 1
        if len(self.reasons) < LISTED:
            self.reasons.append(reason)
        if self.log:
            self.log(reason)


class Record(NamedTuple):
    """A row of unlabelled text."""

    text: str
    columns: dict[str, Any]  # all of them, the text among them
    where: str  # file:line

    def line(self, outcome: dict[str, Any]) -> str:
        """The row with what is predicted, in JSON. Raises Problem if it has a column with the name of what is added."""
        if taken := sorted(outcome.keys() & self.columns.keys()):
            raise Problem(f"{self.where}: it has a column {taken[0]!r} already: rename it")
        return _as_line(self.columns | outcome)


def _as_line(columns: dict[str, Any]) -> str:
    """Columns as a line of JSON. NaN becomes null; what JSON has no form for, such as a date, becomes text."""
    try:
        return json.dumps(columns, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(columns), ensure_ascii=False, default=str, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Names(NamedTuple):
    """What columns are called in the files: names that params.yaml has for them."""

    text: str = "text"
    label: str | None = None  # None: one of LABELS
    exclusive: bool = True  # whether that column has one label

    @classmethod
    def of(cls, data: Data) -> Names:
        return cls(data.text, data.label, data.exclusive)

    def here(self, columns: Iterable[str]) -> list[str]:
        """What the columns are called here. One that another is renamed to is put in parentheses."""
        ours = {self.text: "text"} | ({self.label: "label" if self.exclusive else "labels"} if self.label else {})
        taken = ({"text"} if self.text != "text" else set()) | (set(LABELS) if self.label else set())
        return [ours.get(name, f"({name})" if name in taken else name) for name in columns]


LABELS = ("label", "labels", "accept", "cats")  # columns with labels
PLAIN = Names()


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
    path: Path,
    *,
    exclusive: bool,
    on_bad_row: str,
    tally: Tally,
    allowed_labels: set[str] | None = None,
    names: Names = PLAIN,
) -> Iterator[Row]:
    """Yield the usable rows of a file, and record the others in the tally.

    allowed_labels: the labels that may occur; None for any.
    Raises Problem at the first bad row if on_bad_row is "fail".
    """
    allowed = listed(sorted(allowed_labels or ()))

    def row_of(record: dict[str, Any], line: int) -> Row:
        row = _row(record, f"{path}:{line}", line, exclusive)
        if allowed_labels is not None and not allowed_labels.issuperset(row.labels):
            unknown = sorted(set(row.labels) - allowed_labels)[0]
            raise BadRow(f"label {brief(unknown)} does not occur in train (train has {allowed})")
        return row

    return _read(path, READERS[path.suffix](path, True, names), row_of, on_bad_row, tally)


def read_unlabelled(path: Path, parsed: Parsed, *, on_bad_row: str, tally: Tally) -> Iterator[Record]:
    """Yield the rows that have a usable text, with all their columns, and record the others in the tally.

    parsed: what `parse` returns for the file.
    Raises Problem at the first bad row if on_bad_row is "fail".
    """

    def record_of(columns: dict[str, Any], line: int) -> Record:
        text = _text(columns)
        try:
            _as_line(columns).encode()
        except UnicodeEncodeError:
            raise BadRow(NOT_UTF8) from None
        except (ValueError, RecursionError) as error:
            raise BadRow(f"its columns cannot be written as JSON ({error})") from None
        return Record(text, columns, f"{path}:{line}")

    return _read(path, parsed, record_of, on_bad_row, tally)


def parse(path: Path, suffix: str = "", names: Names = PLAIN) -> Parsed:
    """The records of a file without labels. Raises Problem if no reader knows its suffix.

    suffix: to be read as a file with this suffix, whatever the path has.
    """
    known = READERS | UNLABELLED
    suffix = suffix or path.suffix
    if suffix not in known:
        raise Problem(f"{path}: expected one of {', '.join(known)}")
    return known[suffix](path, False, names)


Made = TypeVar("Made", Row, Record)


def _read(
    path: Path, parsed: Parsed, make: Callable[[dict[str, Any], int], Made], on_bad_row: str, tally: Tally
) -> Iterator[Made]:
    try:
        for line, get_record in parsed:
            if get_record is None:
                tally.blank += 1
                continue
            try:
                made = make(get_record(), line)
            except NotAccepted:
                tally.rejected += 1
            except BadRow as reason:
                if on_bad_row == "fail":
                    raise Problem(f"{path}:{line}: {reason}. Fix the row, or set data.on_bad_row: skip") from None
                tally.skip(printable(f"{path}:{line}: {reason}"))
            else:
                yield made
    except OSError as error:
        raise Problem(f"{path}: cannot be read ({error.strerror or error})") from None


def listed(names: list[str]) -> str:
    """Names for a message: all of them, or the first and how many more there are."""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _opened(path: Path) -> TextIO:
    """The file as text. Bytes that are not UTF-8 become lone surrogates, which no valid text contains."""
    if path == STDIN:  # the open one, which may be a socket
        return open(0, encoding="utf-8", errors="surrogateescape", newline="", closefd=False)
    return path.open(encoding="utf-8", errors="surrogateescape", newline="")


def _lines(file: TextIO) -> Iterator[str | None]:
    """The lines of a file; None in place of one that is too long."""
    first = True
    for line in iter(partial(file.readline, LONGEST_RECORD), ""):
        if first:
            if "\0" in line[:4] or line.startswith(UTF16):
                raise Problem(
                    f"{file.name}: UTF-16 or UTF-32, not UTF-8: convert it, for example with `iconv -f UTF-16 -t UTF-8`"
                )
            first, line = False, line.removeprefix("\ufeff")
            if not line:  # the mark is all
                return
        if len(line) < LONGEST_RECORD:
            yield line
            continue
        while line and line[-1] not in "\r\n":
            line = file.readline(LONGEST_RECORD)
        yield None


class _Again:
    """Lines that may be read again: `begin` starts a record, and `again` returns to the line after its first.

    None comes in place of a line with which its record would be too long.
    """

    def __init__(self, lines: Iterator[str | None]) -> None:
        self.number = 0
        self._lines = lines
        self._record: list[str | None] = []
        self._characters = 0
        self._waiting: list[str | None] = []  # the next one last

    def begin(self) -> None:
        self._record.clear()
        self._characters = 0

    def again(self) -> None:
        lines = self._record[1:]
        self._waiting += reversed(lines)
        self.number -= len(lines)

    @property
    def too_long(self) -> bool:
        return self._characters >= LONGEST_RECORD

    def __iter__(self) -> _Again:
        return self

    def __next__(self) -> str | None:
        line = self._waiting.pop() if self._waiting else next(self._lines)
        self.number += 1
        self._characters += LONGEST_RECORD if line is None else len(line)
        self._record.append(line)
        return None if self.too_long else line


# Number of the line, and a function that returns the record or raises BadRow; None for a blank line.
Parsed = Iterator[tuple[int, Callable[[], dict[str, Any]] | None]]
Reader = Callable[[Path, bool, Names], Parsed]


def _json_lines(path: Path, labelled: bool, names: Names) -> Parsed:
    def parse(line: str) -> dict[str, Any]:
        record = _json_object(line, names)
        for name in (names.text, names.label if labelled else None):
            if name and name not in record:
                raise BadRow(f"it has no {name}{_instead(record)}")
        return dict(zip(names.here(record), record.values(), strict=True))

    return _by_line(path, partial(_json_object, names=names) if names == PLAIN else parse)


def _plain_lines(path: Path, labelled: bool, names: Names) -> Parsed:
    return _by_line(path, lambda line: {"text": line.rstrip("\r\n")})


def _by_line(path: Path, parse: Callable[[str], dict[str, Any]]) -> Parsed:
    with _opened(path) as file:
        for number, line in enumerate(_lines(file), 1):
            if line is None:
                yield number, partial(_raise, BadRow(TOO_LONG))
            else:
                yield number, None if line.isspace() else partial(parse, line)


def _json_object(line: str, names: Names) -> dict[str, Any]:
    keys = (names.text, names.label or "label")
    suspect = any(line.count(f'"{key}"') > 1 for key in keys)  # Python keeps the last of two equal keys
    try:
        record = (UNIQUE.decode if suspect else json.loads)(line)
    except json.JSONDecodeError as error:
        raise BadRow(f"not JSON ({error.msg} at column {error.colno})") from None
    except BadRow:
        raise
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or thousands of nested brackets
        raise BadRow(f"JSON that Python cannot read ({error})") from None
    if not isinstance(record, dict):
        raise BadRow(f"expected a JSON object, found {type(record).__name__}")
    return record


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise BadRow(f"the key {brief(key)} occurs twice")
    return record


UNIQUE = json.JSONDecoder(object_pairs_hook=_with_unique_keys)
COLUMNS = {"text", "label", "labels", "accept"}


def _delimited(delimiter: str, quoting: Literal[0, 3]) -> Reader:
    def parse(path: Path, labelled: bool, names: Names) -> Parsed:
        csv.field_size_limit(LONGEST_TEXT)  # the default, 128 kB, is less than a long document
        with _opened(path) as file:
            lines = _Again(_lines(file))
            # In place of a line that is too long comes None, which is no string: csv.Error.
            reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
            header: list[str] = []
            columns: list[str] = []  # what they are called here
            while True:
                lines.begin()
                number = lines.number + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    reason = TOO_LONG if lines.too_long else f"malformed ({error})"
                    if not header:
                        raise Problem(f"{path}:{number}: the header is {reason}") from None
                    lines.again()  # only the first line is bad: if its quote is open, no rows after it are lost
                    yield number, partial(_raise, BadRow(reason))
                    continue
                if not cells:
                    yield number, None
                elif header:
                    yield number, partial(_record, header, columns, cells, labelled)
                else:
                    _check_header(cells, labelled, f"{path}:{number}", delimiter, names)
                    header, columns = cells, names.here(cells)

    return parse


def _check_header(header: list[str], labelled: bool, where: str, delimiter: str, names: Names) -> None:
    columns = Counter(name for name in names.here(header) if name in COLUMNS or not labelled)
    if columns["text"] and max(columns.values()) == 1 and (len(columns) > 1 or not labelled):
        return
    found = delimiter.join(header)[:80]
    if not labelled:
        raise Problem(
            f"{where}: the header is {found!r}: expected a column {names.text} (case matters), and each column once"
        )
    raise Problem(
        f"{where}: the header is {found!r}: expected the columns {names.text} and "
        f"{names.label or 'label (or labels, accept)'}, each once (case matters), with {delimiter!r} between columns"
    )


def _raise(error: Exception) -> Any:
    raise error


def _record(header: list[str], columns: list[str], cells: list[str], labelled: bool) -> dict[str, Any]:
    if len(cells) > len(header):
        raise BadRow("more cells than columns in the header")
    if [cell.lstrip("\ufeff") for cell in cells] == header:
        raise BadRow("it is the header again: several files were joined")
    named = zip(columns, cells, strict=False)
    if not labelled:
        return dict(named)
    record: dict[str, Any] = {name: cell for name, cell in named if cell}
    for name in ("labels", "accept"):
        if name in columns:
            record[name] = [part.strip() for part in record.get(name, "").split("|") if part.strip()]
    return record


def _parquet(path: Path, labelled: bool, names: Names) -> Parsed:
    from pyarrow import ArrowException, parquet

    if path.is_fifo():
        raise Problem(f"{path}: Parquet cannot be read from a pipe: name a file")
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=PARQUET_BYTES) as file:
            columns = Counter(file.schema_arrow.names)
            if not columns[names.text] or max(columns.values()) > 1:
                found = listed(sorted(columns.elements()))
                raise Problem(f"{path}: its columns are {found}: expected {names.text}, and each once")
            here = names.here(file.schema_arrow.names)
            batches = file.iter_batches(PARQUET_ROWS, use_threads=False)
            records = chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, record in enumerate(records, 1):
                yield number, partial(_present, dict(zip(here, record.values(), strict=True)), labelled)
    except (ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        if getattr(error, "errno", None):  # of the file system; Arrow's own have none
            raise
        raise Problem(f"{path}: no Parquet file, or damaged ({printable(str(error).splitlines()[0])})") from None


def _present(record: dict[str, Any], labelled: bool) -> dict[str, Any]:
    """In a table every row has every column: what is null in a labelled row is not there."""
    return {name: value for name, value in record.items() if value is not None} if labelled else record


NOT_UTF8 = "not UTF-8: if the file is in Latin-1, `iconv -f LATIN1 -t UTF-8` converts it"
TOO_LONG = f"longer than {LONGEST_RECORD:,} characters"
UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # byte order marks, read as UTF-8
PARQUET_ROWS = 256  # of a file in memory
PARQUET_BYTES = 2**16  # of a column that are read ahead
# A reader gets a path, and whether its rows have labels. Parquet has rows instead of lines.
READERS: dict[str, Reader] = {
    ".jsonl": _json_lines,
    ".csv": _delimited(",", csv.QUOTE_MINIMAL),
    ".tsv": _delimited("\t", csv.QUOTE_NONE),  # one row per line; quotes are literal
    ".parquet": _parquet,
}
UNLABELLED: dict[str, Reader] = {".txt": _plain_lines}  # formats that have no place for a label


def _row(record: dict[str, Any], where: str, line: int, exclusive: bool) -> Row:
    text = _text(record)
    labels, complete = _labels(record, exclusive)
    for label in labels:
        _check_characters(label)
    if exclusive and sum(labels.values()) != 1:
        raise BadRow(f"expected one label (data.exclusive: true), found {sum(labels.values())}")
    return Row(text, labels, complete, where, line)


def _text(record: dict[str, Any]) -> str:
    if "text" not in record:
        raise BadRow(f"it has no text{_instead(record)}")
    text = record["text"]
    if not isinstance(text, str):
        raise BadRow(f"its text is {_as_json(text)}: expected a string, in quotes")
    if len(text) > LONGEST_TEXT:
        raise BadRow(f"its text has {len(text):,} characters: split it into rows of at most {LONGEST_TEXT:,}")
    if not text or text.isspace():
        raise BadRow("its text has no words")
    _check_characters(text)
    return text


def _check_characters(value: str) -> None:
    if "\0" in value:
        raise BadRow("it has a NUL character: the file is damaged, or parts of it are UTF-16")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(NOT_UTF8) from None


def _instead(record: dict[str, Any]) -> str:
    """What a row has instead of a key that it lacks: the same in capitals, perhaps."""
    return f", only {listed(list(map(brief, record)))}" if record else ""


def _as_json(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else brief(value)


def _labels(record: dict[str, Any], exclusive: bool) -> tuple[dict[str, bool], bool]:
    answer = record.get("answer", "accept")
    if answer not in ("accept", "reject", "ignore"):
        raise BadRow(f"Prodigy's answer must be accept, reject or ignore, not {brief(answer)}")
    if answer == "ignore":
        raise NotAccepted
    if "accept" in record or "labels" in record:
        chosen = record.get("accept", record.get("labels"))
        if not isinstance(chosen, list) or not all(isinstance(label, str) and label.strip() for label in chosen):
            raise BadRow(f"expected a list of labels, each in quotes, found {_as_json(chosen)}")
        if answer == "reject":
            raise NotAccepted
        return dict.fromkeys((label.strip() for label in chosen), True), True
    if "cats" in record and "label" not in record:
        return _cats(record["cats"]), exclusive
    if "label" not in record:
        raise BadRow(f"it has no label{_instead(record)}")
    label = record["label"]
    if not isinstance(label, str) or not label.strip():
        raise BadRow(f"its label is {_as_json(label)}: expected a string with words, in quotes")
    label = label.strip()
    if answer == "reject":
        if exclusive:
            raise NotAccepted
        return {label: False}, False
    # A binary Prodigy answer says nothing about other labels, unless classes are exclusive.
    return {label: True}, exclusive or "answer" not in record


def labels_of(columns: dict[str, Any], exclusive: bool) -> tuple[dict[str, bool], bool] | None:
    """What the columns of an unlabelled row say of labels, if it has some: each label, and whether others are false."""
    lists = {name: columns[name].split("|") for name in ("labels", "accept") if isinstance(columns.get(name), str)}
    present = {name: value for name, value in (columns | lists).items() if value is not None}
    try:
        labels, complete = _labels(present, exclusive)
    except (BadRow, NotAccepted):
        return None
    return (labels, complete) if not exclusive or sum(labels.values()) == 1 else None


def _cats(cats: Any) -> dict[str, bool]:
    """spaCy's labels of a row: {"A": 1.0, "B": 0.0}. What is null, as in a table, is unknown."""
    said = {k: v for k, v in cats.items() if v is not None} if isinstance(cats, dict) else {"": cats}
    known = {label.strip(): value for label, value in said.items()}
    if len(known) < len(said) or not all(label and value in (0, 1) for label, value in known.items()):
        raise BadRow(f"expected cats with 0 or 1 for each label, found {_as_json(cats)}")
    return {label: bool(value) for label, value in known.items()}
