import csv
import datetime
import io
import json
import re
import subprocess
import sys

import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests import soak
from tests.conftest import ROOT
from workflow.corpus import rows as module
from workflow.corpus.rows import Names, Tally, find, parse, read, read_unlabelled
from workflow.engine.errors import Problem


def rows(path, exclusive=True, on_bad_row="fail", allowed_labels=None):
    tally = Tally()
    return list(
        read(path, exclusive=exclusive, on_bad_row=on_bad_row, tally=tally, allowed_labels=allowed_labels)
    ), tally


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(records):
    """The bytes of a Parquet file."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), buffer := io.BytesIO())
    return buffer.getvalue()


FORMATS = {
    "JSON Lines": ("a.jsonl", '{"text": "Fine.", "label": "A"}\n\n{"text": "Bad.", "label": "B", "extra": 1}\n', True),
    "JSON Lines, BOM, no newline at the end": ("a.jsonl", '\ufeff{"text": "Fine.", "label": "A"}\r\n{"text": "Bad.", "label": "B"}', True),
    "JSON Lines, several labels": ("a.jsonl", '{"text": "Fine.", "labels": ["A"]}\n{"text": "Bad.", "labels": ["B", "C"]}\n', False),
    "CSV": ("a.csv", 'label,text\nA,Fine.\n"B","Bad."\n', True),
    "CSV, several labels": ("a.csv", "text,labels\nFine.,A\nBad.,B|C\n", False),
    "TSV": ("a.tsv", "text\tlabel\nFine.\tA\nBad.\tB\n", True),
    "Prodigy, binary": (
        "a.jsonl",
        '{"text": "Fine.", "label": "A", "answer": "accept"}\n{"text": "Eh.", "label": "A", "answer": "ignore"}\n'
        '{"text": "Eh.", "label": "A", "answer": "reject"}\n{"text": "Bad.", "label": "B", "answer": "accept"}\n',
        True,
    ),
    "Prodigy, choice": (
        "a.jsonl",
        '{"text": "Fine.", "options": [{"id": "A"}, {"id": "B"}], "accept": ["A"], "answer": "accept"}\n'
        '{"text": "Bad.", "options": [{"id": "A"}, {"id": "B"}], "accept": ["B"], "answer": "accept"}\n',
        True,
    ),
    "Parquet": ("a.parquet", parquet([{"text": "Fine.", "label": "A", "n": 1}, {"text": "Bad.", "label": "B", "n": 2}]), True),
    "Parquet, several labels": ("a.parquet", parquet([{"text": "Fine.", "labels": ["A"]}, {"text": "Bad.", "labels": ["B", "C"]}]), False),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "exclusive"), FORMATS.values(), ids=FORMATS.keys())
def test_every_format_is_read(tmp_path, name, content, exclusive):
    usable, tally = rows(write(tmp_path, name, content), exclusive)
    assert [(row.text, sorted(row.labels)) for row in usable] == [
        ("Fine.", ["A"]),
        ("Bad.", ["B"] if exclusive else ["B", "C"]),
    ]
    assert all(row.complete for row in usable) and tally.skipped == 0


def test_a_binary_answer_annotates_only_its_own_label(tmp_path):
    content = '{"text": "x", "label": "A", "answer": "reject"}\n{"text": "x", "label": "B", "answer": "accept"}\n'
    usable, _ = rows(write(tmp_path, "a.jsonl", content), exclusive=False)
    assert [(row.labels, row.complete) for row in usable] == [({"A": False}, False), ({"B": True}, False)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_the_cats_of_spacy_are_labels(tmp_path, name, exclusive):
    records = [{"text": "Fine.", "cats": {"A": 1.0, "B": 0.0}}, {"text": "Bad.", "cats": {"B": 1.0}}]
    content = parquet(records) if name == "a.parquet" else "\n".join(map(json.dumps, records))
    usable, _ = rows(write(tmp_path, name, content), exclusive)
    assert [row.labels for row in usable] == [{"A": True, "B": False}, {"B": True}]
    assert {row.complete for row in usable} == {exclusive}  # what is not said may be true, unless one label is


def test_an_empty_list_of_labels_is_a_complete_annotation(tmp_path):
    usable, _ = rows(write(tmp_path, "a.jsonl", '{"text": "x", "labels": []}'), exclusive=False)
    assert usable[0].labels == {} and usable[0].complete


BAD = {
    "not JSON": ("a.jsonl", '{"text": "x", "label"', "not JSON (Expecting"),
    "number with thousands of digits": ("a.jsonl", '{"text": ' + "9" * 5000 + "}", "JSON that Python cannot read"),
    "thousands of nested brackets": ("a.jsonl", "[" * 100_000, "JSON that Python cannot read"),
    "not an object": ("a.jsonl", "[1]", "expected a JSON object, found list"),
    "no text": ("a.jsonl", '{"label": "A"}', "it has no text"),
    "text without words": ("a.jsonl", '{"text": " \\n ", "label": "A"}', "its text has no words"),
    "text is a number": ("a.jsonl", '{"text": 3, "label": "A"}', "its text is 3: expected a string, in quotes"),
    "no label": ("a.jsonl", '{"text": "x"}', "it has no label"),
    "label is a number": ("a.jsonl", '{"text": "x", "label": 1}', "its label is 1: expected a string with words, in quotes"),
    "two labels": ("a.jsonl", '{"text": "x", "labels": ["A", "B"]}', "expected one label (data.exclusive: true), found 2"),
    "labels are not a list": ("a.jsonl", '{"text": "x", "labels": "A"}', "expected a list of labels, each in quotes, found 'A'"),
    "a probability in cats": ("a.jsonl", '{"text": "x", "cats": {"A": 0.7, "B": 0.3}}', "expected cats with 0 or 1 for each label, found"),
    "cats are a list": ("a.jsonl", '{"text": "x", "cats": ["A"]}', "expected cats with 0 or 1 for each label, found"),
    "cats without a label": ("a.jsonl", '{"text": "x", "cats": {"A": 0, "B": 0}}', "expected one label (data.exclusive: true), found 0"),
    "one cat twice": ("a.jsonl", '{"text": "x", "cats": {"A": 1, "A ": 0}}', "expected cats"),
    "unknown answer": ("a.jsonl", '{"text": "x", "label": "A", "answer": "yes"}', "not 'yes'"),
    "unknown label": ("a.jsonl", '{"text": "x", "label": "Z"}', "label 'Z' does not occur in train (train has A, B)"),
    "not UTF-8": ("a.jsonl", b'{"text": "caf\xe9", "label": "A"}', "not UTF-8"),
    "half a surrogate pair": ("a.jsonl", '{"text": "\\ud83d", "label": "A"}', "not UTF-8"),
    "too many cells": ("a.csv", "x,A,B", "more cells than columns"),
    "open quote": ("a.csv", '"x,A', "malformed"),
    "empty cell": ("a.tsv", "\tA", "it has no text"),
    "text is null": ("a.jsonl", '{"text": null, "label": "A"}', "its text is null: expected a string, in quotes"),
    "label is null": ("a.jsonl", '{"text": "x", "label": null}', "its label is null: expected a string with words, in quotes"),
    "label is true": ("a.jsonl", '{"text": "x", "label": true}', "its label is true: expected"),
    "label is a float": ("a.jsonl", '{"text": "x", "label": 1.5}', "its label is 1.5: expected"),
    "label is a list": ("a.jsonl", '{"text": "x", "label": ["A"]}', "its label is ['A']: expected"),
    "label is blank": ("a.jsonl", '{"text": "x", "label": " "}', "its label is ' ': expected a string with words"),
    "labels are numbers": ("a.jsonl", '{"text": "x", "labels": [1]}', "expected a list of labels, each in quotes, found [1]"),
    "one key twice": ("a.jsonl", '{"text": "x", "label": "A", "label": "B"}', "the key 'label' occurs twice"),
    "NUL in JSON": ("a.jsonl", '{"text": "x\\u0000", "label": "A"}', "it has a NUL character"),
    "NUL in CSV": ("a.csv", "x\0y,A", "it has a NUL character"),
    "NUL in a label": ("a.tsv", "x\tA\0", "it has a NUL character"),
    "half a surrogate pair in a label": ("a.jsonl", '{"text": "x", "label": "\\udfff"}', "not UTF-8"),
    "UTF-16 in UTF-8": ("a.csv", "x,A".encode("utf-16-le"), "it has a NUL character"),
    "the header again": ("a.csv", "\ufefftext,label", "it is the header again"),
    "BOM in JSON": ("a.jsonl", '\ufeff{"text": "x", "label": "A"}', "not JSON (Unexpected UTF-8 BOM"),
    "a long list": ("a.jsonl", json.dumps({"text": list(range(10**5)), "label": "A"}), "its text is [0, 1, 2, 3, 4, 5, ...]: expected"),
    "many keys": ("a.jsonl", json.dumps({str(i): i for i in range(10**4)}), "'9', and 9990 more"),
    "escape codes": ("a.jsonl", '{"text": "x", "label": "\\u001b[31mred\\r\\n!"}', r"label '\x1b[31mred\r\n!' does not occur in train"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "row", "reason"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_raises_or_is_skipped_and_counted(tmp_path, name, row, reason):
    good = {
        "a.jsonl": ["", '{"text": "y", "label": "A"}'],
        "a.csv": ["text,label", "y,A"],
        "a.tsv": ["text\tlabel", "y\tA"],
    }[name]
    lines = [part if isinstance(part, bytes) else part.encode() for part in (*good, row)]
    path = write(tmp_path, name, b"\n".join(lines) + b"\n")
    with pytest.raises(Problem) as caught:
        rows(path, allowed_labels={"A", "B"})
    assert str(caught.value).startswith(f"{path}:3: ") and reason in str(caught.value)
    assert "data.on_bad_row: skip" in str(caught.value)
    usable, tally = rows(path, on_bad_row="skip", allowed_labels={"A", "B"})
    assert [row.text for row in usable] == ["y"]
    assert tally.skipped == 1 and tally.reasons[0].startswith(f"{path}:3: ") and reason in tally.reasons[0]


def test_csv_line_numbers_include_line_breaks_in_quotes(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"two\nlines",A\nx,\n')
    with pytest.raises(Problem, match=r"a\.csv:4: it has no label"):
        rows(path)


def test_csv_line_numbers_include_blank_lines(tmp_path):
    with pytest.raises(Problem, match=r"a\.csv:4: it has no label"):
        rows(write(tmp_path, "a.csv", "text,label\n\n\nx,\n"))


def test_quotes_in_tsv_are_literal(tmp_path):
    usable, _ = rows(write(tmp_path, "a.tsv", 'text\tlabel\n"Odd.\tA\nFine.\tB\n"\tB\n'))
    assert [row.text for row in usable] == ['"Odd.', "Fine.", '"']


words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=30).filter(str.strip)


@given(st.lists(st.tuples(words, st.sampled_from(["A", "B c"])), min_size=1, max_size=8))
def test_all_formats_give_the_same_rows(tmp_path, pairs):
    with (tmp_path / "a.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text, "label": label}) + "\n" for text, label in pairs)
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *pairs])
    if not any(c in text for text, _ in pairs for c in "\t\n"):
        (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in [("text", "label"), *pairs]), "utf-8")
    else:
        (tmp_path / "a.tsv").unlink(missing_ok=True)
    for name in filter(lambda name: (tmp_path / name).exists(), ("a.jsonl", "a.csv", "a.tsv")):
        assert [(row.text, *row.labels) for row in rows(tmp_path / name)[0]] == pairs


def test_rows_are_read_lazily(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "x", "label": "A"}\nnot JSON\n')
    stream = read(path, exclusive=True, on_bad_row="fail", tally=Tally())
    assert next(stream).text == "x"


def test_a_split_must_have_only_one_file(tmp_path):
    assert find(tmp_path, "train") is None
    write(tmp_path, "train.csv", "")
    assert find(tmp_path, "train") == tmp_path / "train.csv"
    write(tmp_path, "train.jsonl", "")
    with pytest.raises(Problem, match=r"train.jsonl and train.csv both exist: keep one"):
        find(tmp_path, "train")


HEADERS = {
    "an open quote": (".csv", b'text,"label\nx,A\n', "the header is malformed"),
    "semicolons": (".csv", b"text;label\nx;A\n", "the header is 'text;label': expected the columns text and label"),
    "tabs": (".csv", b"text\tlabel\nx\tA\n", r"the header is 'text\tlabel'"),
    "commas": (".tsv", b"text,label\nx,A\n", r"with '\t' between columns"),
    "capitals": (".csv", b"Text,Label\nx,A\n", "the header is 'Text,Label': expected the columns text and label (or labels"),
    "white space": (".csv", b"text, label\nx, A\n", "the header is 'text, label'"),
    "no header": (".csv", b"x,A\ny,B\n", "the header is 'x,A'"),
    "no label": (".csv", b"text,answer\nx,accept\n", "the header is 'text,answer'"),
    "one column twice": (".csv", b"text,label,text\nx,A,y\n", "each once"),
    "Excel's separator": (".csv", b"sep=,\ntext,label\nx,A\n", "the header is 'sep=,'"),
    "UTF-16": (".csv", "text,label\nx,A\n".encode("utf-16"), "UTF-16 or UTF-32, not UTF-8: convert it"),
    "UTF-16 without a mark": (".tsv", "text\tlabel\nx\tA\n".encode("utf-16-be"), "UTF-16 or UTF-32"),
    "UTF-16, JSON": (".jsonl", '{"text": "x", "label": "A"}'.encode("utf-16"), "UTF-16 or UTF-32"),
    "UTF-32": (".jsonl", '{"text": "x", "label": "A"}'.encode("utf-32"), "UTF-16 or UTF-32"),
}  # fmt: skip


@pytest.mark.parametrize("on_bad_row", ["fail", "skip"])
@pytest.mark.parametrize(("suffix", "content", "reason"), HEADERS.values(), ids=HEADERS.keys())
def test_a_file_that_cannot_be_read_raises_with_its_cause(tmp_path, suffix, content, reason, on_bad_row):
    path = write(tmp_path, f"a{suffix}", content)
    with pytest.raises(Problem) as caught:
        rows(path, on_bad_row=on_bad_row)
    assert str(caught.value).startswith(f"{path}:") and reason in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_may_follow_blank_lines(tmp_path):
    usable, _ = rows(write(tmp_path, "a.csv", "\n\ntext,label\nx,A\n"))
    assert [(row.text, row.where[-2:]) for row in usable] == [("x", ":4")]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"Text": "x", "label": "A"}', "it has no text, only 'Text', 'label'"),
        ('{"text": "x", "Label": "A"}', "it has no label, only 'text', 'Label'"),
        (b'{"text": "caf\xe9", "label": "A"}', "not UTF-8: if the file is in Latin-1"),
    ],
)
def test_a_bad_row_names_the_cause(tmp_path, row, reason):
    with pytest.raises(Problem, match=reason):
        rows(write(tmp_path, "a.jsonl", row))


def test_labels_that_differ_in_white_space_around_them_are_one(tmp_path):
    content = '{"text": "x", "label": " A"}\n{"text": "x", "label": "A\\u00a0"}\n{"text": "x", "labels": ["A", "A "]}\n'
    usable, _ = rows(write(tmp_path, "a.jsonl", content))
    assert [row.labels for row in usable] == [{"A": True}] * 3
    with pytest.raises(Problem, match="expected a list of labels"):
        rows(write(tmp_path, "b.jsonl", '{"text": "x", "labels": [" "]}'))


def test_a_csv_quote_that_is_never_closed_costs_one_row(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"x,A\ny,B\n\nz,A\n"two\nlines",B\n')
    usable, tally = rows(path, on_bad_row="skip")
    assert [(row.text, row.line) for row in usable] == [("y", 3), ("z", 5), ("two\nlines", 6)]
    assert (tally.skipped, tally.blank) == (1, 1) and tally.reasons[0].startswith(f"{path}:2: malformed (")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_end_of_a_line(tmp_path, end):
    content = {
        "a.jsonl": ['{"text": "x", "label": "A"}', "", '{"text": "y", "label": "B"}'],
        "a.csv": ["text,label", "x,A", "", "y,B"],
        "a.tsv": ["text\tlabel", "x\tA", "", "y\tB"],
    }
    for name, lines in content.items():
        usable, tally = rows(write(tmp_path, name, end.join(lines)))
        assert [(row.text, *row.labels) for row in usable] == [("x", "A"), ("y", "B")] and tally.blank == 1


LABELS = ["a, b", 'say "so"', "a/b\\c", "two\nlines", "👍🏽", "l" * 300, "\x1b[31mred\r\n!", "1", "null", "'"]


def test_any_text_may_be_a_label(tmp_path):
    lines = [json.dumps({"text": "x", "label": label}) for label in LABELS]
    assert [[*row.labels] for row in rows(write(tmp_path, "a.jsonl", "\n".join(lines)))[0]] == [[one] for one in LABELS]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *(("x", label) for label in LABELS)])
    assert [[*row.labels] for row in rows(tmp_path / "a.csv")[0]] == [[one] for one in LABELS]


def test_every_skipped_row_is_logged_but_few_are_kept(tmp_path):
    path = write(tmp_path, "a.jsonl", "{\n" * 250)
    logged: list[str] = []
    tally = Tally(log=logged.append)
    assert list(read(path, exclusive=True, on_bad_row="skip", tally=tally)) == []
    assert [line.split(" ")[0] for line in logged] == [f"{path}:{i + 1}:" for i in range(250)]
    assert tally.skipped == 250 and tally.reasons == logged[:100]


def test_a_message_names_few_of_thousands_of_labels(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"text": "x", "label": "Z"}')
    with pytest.raises(Problem, match=r"train has 1000, 1001, .*, 1009, and 4990 more\)") as caught:
        rows(path, allowed_labels={str(i) for i in range(1000, 6000)})
    assert len(str(caught.value)) < 400


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("/proc/self/mem")
    with pytest.raises(Problem, match=r"a\.jsonl: cannot be read \("):
        rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv"])
def test_a_line_without_end_is_refused_unread(tmp_path, name, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_RECORD", 1000)
    monkeypatch.setattr(module, "LONGEST_TEXT", 100)
    separator = {"a.csv": ",", "a.tsv": "\t"}.get(name)
    row = (
        (lambda text: text + separator + "A") if separator else (lambda text: json.dumps({"text": text, "label": "A"}))
    )
    lines = [row("x"), row("y" * 5000), row("z" * 101), row("1"), row("w" * 100)]
    path = write(tmp_path, name, "\n".join([f"text{separator}label", *lines] if separator else lines))
    usable, tally = rows(path, on_bad_row="skip")
    assert [row.text for row in usable] == ["x", "1", "w" * 100] and tally.skipped == 2
    assert (
        "longer than" in tally.reasons[0]
        and ("field larger" if separator else "its text has 101 char") in tally.reasons[1]
    )


# What a row must have, a row may have, and no row should have.
PARTS = st.sampled_from([
    "text", "label", "labels", "accept", "answer", "A", "B", "reject", "ignore", "x y", "", " ", "|", "A|B", "\0", "\ufeff",
    "\x1b[31m", "\u2028", "\x85", "\x0b", "👍", "\ud800", "'", '"', '""', ",", "\t", "\\", "\n", "\r", "\r\n", "é", "9" * 20,
])  # fmt: skip
TEXT = st.lists(PARTS, max_size=4).map("".join)
VALUE = st.recursive(
    TEXT | st.none() | st.booleans() | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
RECORD = st.dictionaries(
    st.sampled_from(["text", "label", "labels", "accept", "answer", "Text", "meta"]), VALUE, max_size=4
)
GOOD = st.fixed_dictionaries({"text": st.sampled_from(["x", "é y"]), "label": st.sampled_from(["A", "B"])})
JSON = (RECORD | GOOD).map(lambda record: json.dumps(record, ensure_ascii=len(record) % 2 == 0))
END = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n"])


@st.composite
def contents(draw, name):
    """A file made of good rows, odd rows and plain noise, then perhaps with bytes changed."""
    if name == "a.jsonl":
        line = JSON | JSON | TEXT
        start = ""
    else:
        separator = "," if name == "a.csv" else "\t"
        quoted = TEXT.map(lambda text: '"' + text.replace('"', '""') + '"')
        line = st.lists(TEXT | quoted | st.sampled_from(["x", "A"]), min_size=1, max_size=3).map(separator.join)
        start = draw(st.sampled_from(["text,label", "label,text,answer", "text,labels"])).replace(",", separator) + "\n"
    parts = draw(st.lists(st.tuples(line, END), max_size=6))
    content = (draw(st.sampled_from(["", "\ufeff"])) + start + "".join(a + b for a, b in parts)).encode(
        "utf-8", "surrogatepass"
    )
    content = bytearray(content)
    for kind, at, byte in draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500), st.integers(0, 255)), max_size=2)
    ):
        at = at % (len(content) + 1)
        content[at : at + (kind < 2)] = [] if kind == 0 else bytes([byte]) * kind
    return bytes(content)


def expected_starts(name, content):
    """The number of the line that each row begins in, found with the csv module alone."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    lines = list(io.StringIO(text, newline=""))
    if name == "a.jsonl":
        return list(range(1, len(lines) + 1))
    kind = {"a.csv": {"delimiter": ","}, "a.tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}}[name]
    starts, at, has_header = [], 0, False
    while at < len(lines):
        reader = csv.reader(iter(lines[at:]), strict=True, **kind)
        try:
            cells, taken = next(reader), reader.line_num
        except csv.Error:
            cells, taken = ["?"], 1
        if has_header or not cells:
            starts.append(at + 1)
        has_header |= bool(cells)
        at += taken
    return starts


@soak.fuzz("rows", short=150, many=40_000)
@given(st.data(), st.sampled_from(["a.jsonl", "a.csv", "a.tsv"]), st.booleans(), st.booleans())
def test_no_row_is_lost_whatever_a_file_has(tmp_path, data, name, exclusive, limited):
    content = data.draw(contents(name))
    path = write(tmp_path, name, content)
    allowed = {"A", "B"} if limited else None
    reasons: list[str] = []
    tally = Tally(log=reasons.append)
    try:
        usable = list(read(path, exclusive=exclusive, on_bad_row="skip", tally=tally, allowed_labels=allowed))
    except Problem as problem:  # about the file as a whole
        assert str(problem).startswith(f"{path}:") and str(problem).isprintable() and len(str(problem)) < 1000
        return
    starts = expected_starts(name, content)
    assert len(usable) + tally.skipped + tally.rejected + tally.blank == len(starts)
    bad = [int(re.match(re.escape(str(path)) + r":(\d+): ", reason)[1]) for reason in reasons]
    assert len(bad) == tally.skipped and all(reason.isprintable() and len(reason) < 2000 for reason in reasons)
    named = bad + [row.line for row in usable]
    assert len(set(named)) == len(named) and set(named) <= set(starts)
    for row in usable:
        assert row.text.strip() and "\0" not in row.text and row.text.encode() and row.where == f"{path}:{row.line}"
        assert (not exclusive or sum(row.labels.values()) == 1) and (not limited or row.labels.keys() <= allowed)
    if bad:
        with pytest.raises(Problem) as caught:
            rows(path, exclusive, "fail", allowed)
        assert str(caught.value).startswith(f"{path}:{bad[0]}: ") and str(caught.value).isprintable()
    else:
        assert [row.line for row in rows(path, exclusive, "fail", allowed)[0]] == [row.line for row in usable]


@soak.fuzz("rows", short=60, many=25_000)
@given(st.lists(GOOD, min_size=1, max_size=5), st.lists(RECORD, max_size=3), st.randoms(use_true_random=False))
def test_good_rows_are_used_whatever_is_between_them(tmp_path, good, odd, random):
    records = [(record, True) for record in good] + [(record, False) for record in odd]
    random.shuffle(records)
    assume(all(isinstance(record, dict) for record, _ in records))
    path = write(tmp_path, "a.jsonl", "\n".join(json.dumps(record) for record, _ in records))
    usable, _ = rows(path, on_bad_row="skip")
    expected = {i: record for i, (record, is_good) in enumerate(records, 1) if is_good}
    found = {row.line: {"text": row.text, "label": next(iter(row.labels))} for row in usable}
    assert expected.items() <= found.items()


@soak.fuzz("rows without labels", short=100, many=5000)
@given(st.data(), st.sampled_from(["a.jsonl", "a.csv", "a.tsv"]))
def test_every_unlabelled_row_becomes_a_line_of_json_or_is_named(tmp_path, data, name):
    content = data.draw(contents(name))
    path = write(tmp_path, name, content)
    tally = Tally()
    try:
        records = list(read_unlabelled(path, parse(path), on_bad_row="skip", tally=tally))
    except Problem as problem:  # about the file as a whole
        assert str(problem).startswith(f"{path}:") and str(problem).isprintable() and len(str(problem)) < 1000
        return
    assert len(records) + tally.skipped + tally.blank == len(expected_starts(name, content))
    assert all(reason.isprintable() and reason.startswith(f"{path}:") for reason in tally.reasons)
    for record in records:
        line = record.line({"predicted by": "a model"})
        assert "\n" not in line and line.encode() and record.text.strip()
        assert json.loads(line) == record.columns | {"predicted by": "a model"}


TABLES = [
    parquet([{"text": f"row {i}", "label": "AB"[i % 2], "n": i, "when": datetime.date(2026, 1, 1 + i % 28)} for i in range(300)]),
    parquet([{"text": f"row {i}", "labels": ["A"] * (i % 3), "x": {"y": i / 2}} for i in range(20)]),
]  # fmt: skip


@soak.fuzz("bytes of a Parquet file", short=60, many=5000)
@given(
    st.sampled_from(TABLES),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_a_damaged_parquet_file_is_read_or_named(tmp_path, table, changes, labelled):
    content = bytearray(table)
    for at, byte in changes:
        content[at % len(content)] = byte
    path, tally = write(tmp_path, "a.parquet", bytes(content)), Tally()
    try:
        if labelled:
            list(read(path, exclusive=False, on_bad_row="skip", tally=tally))
        else:
            for record in read_unlabelled(path, parse(path), on_bad_row="skip", tally=tally):
                json.loads(record.line({}))
    except Problem as problem:
        assert str(problem).startswith(f"{path}:") and str(problem).isprintable()
    assert all(reason.isprintable() for reason in tally.reasons)


BIG = {  # lines of a file, how often they stand in it in `make test` and in the long run, and megabytes that may be used
    "1 GB of rows": (('{"text": "%0180d", "label": "A"}\n',), 2_000, 5_000_000, 400),
    "a row of 100 MB": (('{"label": "A", "text": "', "word " * 200_000, '"}'), 1, 100, 700),
    "a line of 1 GB": (('{"label": "A", "text": "', "word " * 200_000, '"}'), 1, 1000, 700),
    "10 million empty rows": (("\n",), 2_000, 10_000_000, 100),
}
MEASURED = """
import re, sys
from pathlib import Path
from workflow.corpus.repeats import Texts
from workflow.corpus.rows import Tally, read
tally = Tally()
used = sum(1 for _ in Texts().noting(read(Path(sys.argv[1]), exclusive=True, on_bad_row="skip", tally=tally)))
[peak] = re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(used, tally.skipped, tally.blank, int(peak) // 1024)
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", BIG)
def test_memory_does_not_grow_with_a_file(tmp_path, kind):
    """Except for 32 bytes for each row, which find repeated texts."""
    parts, short, many, limit = BIG[kind]
    times = soak.cases(short, many)
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        if len(parts) == 1:
            file.writelines(parts[0] % i if "%" in parts[0] else parts[0] for i in range(times))
        else:
            file.write(parts[0])
            file.writelines(parts[1] for _ in range(times))
            file.write(parts[2])
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    path.unlink()
    used, skipped, blank, megabytes = map(int, done.stdout.split())
    if kind == "1 GB of rows":
        assert (used, skipped, blank) == (times, 0, 0)
    elif kind == "10 million empty rows":
        assert (used, skipped, blank) == (0, 0, times)
    else:
        assert (used, skipped) == ((0, 1) if soak.long else (1, 0))
    assert megabytes < limit


UNLABELLED = {
    "JSON Lines": (
        "a.jsonl",
        '{"n": 1, "text": "Fine.", "label": "A"}\n\n{"text": "Bad.", "n": null, "x": {"y": [1.5]}}\n',
    ),
    "CSV": ("a.csv", "n,text,labels\n1,Fine.,\n,Bad.,A|B\n"),
    "TSV": ("a.tsv", 'text\tn\nFine.\t"1\nBad.\t\n'),
    "plain text": ("a.txt", "\ufeffFine.\r\n\nBad."),
    "Parquet": ("a.parquet", parquet([{"text": "Fine.", "n": 1}, {"text": "Bad.", "n": None}])),
}
COLUMNS = {
    "JSON Lines": [{"n": 1, "text": "Fine.", "label": "A"}, {"text": "Bad.", "n": None, "x": {"y": [1.5]}}],
    "CSV": [{"n": "1", "text": "Fine.", "labels": ""}, {"n": "", "text": "Bad.", "labels": "A|B"}],
    "TSV": [{"text": "Fine.", "n": '"1'}, {"text": "Bad.", "n": ""}],
    "plain text": [{"text": "Fine."}, {"text": "Bad."}],
    "Parquet": [{"text": "Fine.", "n": 1}, {"text": "Bad.", "n": None}],
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_every_column_of_unlabelled_rows_is_kept(tmp_path, kind):
    name, content = UNLABELLED[kind]
    path, tally = write(tmp_path, name, content), Tally()
    records = list(read_unlabelled(path, parse(path), on_bad_row="fail", tally=tally))
    assert [record.text for record in records] == ["Fine.", "Bad."] and not tally.skipped
    assert [record.columns for record in records] == COLUMNS[kind]
    last = 2 if kind == "Parquet" else 3
    assert [record.where for record in records][-1] == f"{path}:{last}"


def test_a_table_without_one_column_of_text_is_refused(tmp_path):
    for name, content in (("a.csv", "txt,label\nx,A"), ("a.parquet", parquet([{"txt": "x"}])), ("b.csv", "text,n,n\n")):
        with pytest.raises(Problem, match="text"):
            list(parse(write(tmp_path, name, content)))
    whole = parquet([{"text": f"row {i}", "label": "A"} for i in range(2000)])
    for damaged in (b"PAR1", whole[: len(whole) // 2], whole[:100] + bytes(200) + whole[300:]):
        with pytest.raises(Problem, match="no Parquet file, or damaged"):
            rows(write(tmp_path, "b.parquet", damaged))


def test_a_format_is_read_from_a_pipe():
    """As `python -m workflow.predict MODEL < FILE` does: nothing can be read twice."""
    code = (
        "from pathlib import Path; from workflow.corpus.rows import *; path = Path('/dev/stdin')\n"
        "for r in read_unlabelled(path, parse(path, '.csv'), on_bad_row='fail', tally=Tally()): print(r.where, r.columns)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"\xef\xbb\xbftext\nFine.\n", capture_output=True, cwd=ROOT
    )
    assert done.stdout.decode() == "/dev/stdin:2 {'text': 'Fine.'}\n", done.stderr


NAMED = [
    {"review": "Fine.", "topic": "A", "text": "1", "label": "x"},
    {"review": "Bad.", "topic": "B", "text": "2", "label": "y"},
]
RENAMED = {
    "a.jsonl": "\n".join(map(json.dumps, NAMED)),
    "a.csv": "label,review,topic,text\nx,Fine.,A,1\ny,Bad.,B,2\n",
    "a.tsv": "label\treview\ttopic\ttext\nx\tFine.\tA\t1\ny\tBad.\tB\t2\n",
    "a.parquet": parquet(NAMED),
}


@pytest.mark.parametrize(("name", "content"), RENAMED.items(), ids=RENAMED.keys())
def test_columns_may_have_other_names(tmp_path, name, content):
    """Columns that are really called text and label are not read then; unlabelled rows keep them."""
    path = write(tmp_path, name, content)
    found = read(path, exclusive=True, on_bad_row="fail", tally=Tally(), names=Names("review", "topic"))
    assert [(row.text, row.labels) for row in found] == [("Fine.", {"A": True}), ("Bad.", {"B": True})]
    records = list(read_unlabelled(path, parse(path, names=Names("review")), on_bad_row="fail", tally=Tally()))
    assert [record.text for record in records] == ["Fine.", "Bad."]
    assert records[0].columns == {"text": "Fine.", "topic": "A", "(text)": "1", "label": "x"}
    with pytest.raises(Problem, match=r"no text|topics"):
        list(read(path, exclusive=True, on_bad_row="fail", tally=Tally(), names=Names("topics", "topic")))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "review,topics\nFine.,A|B\n"), ("a.jsonl", '{"review": "Fine.", "topics": ["A", "B"], "cats": 7}')],
)
def test_the_column_of_labels_may_have_another_name(tmp_path, name, content):
    path = write(tmp_path, name, content)
    names = Names("review", "topics", exclusive=False)
    [row] = read(path, exclusive=False, on_bad_row="fail", tally=Tally(), names=names)
    assert row.labels == {"A": True, "B": True} and row.complete


@pytest.mark.parametrize(("names", "missing"), [(Names("body"), "body"), (Names(label="topic"), "topic")])
def test_a_missing_column_has_its_own_name_in_the_message(tmp_path, names, missing):
    path = write(tmp_path, "a.jsonl", '{"text": "Fine.", "label": "A"}')
    with pytest.raises(Problem, match=f"a.jsonl:1: it has no {missing}, only 'text', 'label'"):
        list(read(path, exclusive=True, on_bad_row="fail", tally=Tally(), names=names))


def test_a_key_twice_is_noticed_under_its_name(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"review": "Fine.", "review": "Bad.", "label": "A"}')
    with pytest.raises(Problem, match="the key 'review' occurs twice"):
        list(read(path, exclusive=True, on_bad_row="fail", tally=Tally(), names=Names("review")))
