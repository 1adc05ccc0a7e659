import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.corpus.rows import Tally, find, read
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
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "exclusive"), FORMATS.values(), ids=FORMATS.keys())
def test_every_format_is_read(tmp_path, name, content, exclusive):
    usable, tally = rows(write(tmp_path, name, content), exclusive)
    assert [(row.text, sorted(row.labels)) for row in usable] == [
        ("Fine.", ["A"]),
        ("Bad.", ["B"] if exclusive else ["B", "C"]),
    ]
    assert all(row.complete for row in usable) and tally.skipped == []


def test_a_binary_answer_annotates_only_its_own_label(tmp_path):
    content = '{"text": "x", "label": "A", "answer": "reject"}\n{"text": "x", "label": "B", "answer": "accept"}\n'
    usable, _ = rows(write(tmp_path, "a.jsonl", content), exclusive=False)
    assert [(row.labels, row.complete) for row in usable] == [({"A": False}, False), ({"B": True}, False)]


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
    "text is a number": ("a.jsonl", '{"text": 3, "label": "A"}', "its text is not a string: 3"),
    "no label": ("a.jsonl", '{"text": "x"}', "it has no label"),
    "label is a number": ("a.jsonl", '{"text": "x", "label": 1}', "its label is not a string with words: 1"),
    "two labels": ("a.jsonl", '{"text": "x", "labels": ["A", "B"]}', "expected one label (data.exclusive: true), found 2"),
    "labels are not a list": ("a.jsonl", '{"text": "x", "labels": "A"}', "expected a list of labels, found 'A'"),
    "unknown answer": ("a.jsonl", '{"text": "x", "label": "A", "answer": "yes"}', "not 'yes'"),
    "unknown label": ("a.jsonl", '{"text": "x", "label": "Z"}', "label 'Z' does not occur in train (train has A, B)"),
    "not UTF-8": ("a.jsonl", b'{"text": "caf\xe9", "label": "A"}', "not UTF-8"),
    "half a surrogate pair": ("a.jsonl", '{"text": "\\ud83d", "label": "A"}', "not UTF-8"),
    "too many cells": ("a.csv", "x,A,B", "more cells than columns"),
    "open quote": ("a.csv", '"x,A', "malformed"),
    "empty cell": ("a.tsv", "\tA", "it has no text"),
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
    assert len(tally.skipped) == 1 and tally.skipped[0].startswith(f"{path}:3: ") and reason in tally.skipped[0]


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
