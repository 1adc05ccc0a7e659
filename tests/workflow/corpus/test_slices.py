"""Slices of a corpus: they cover it, and stay as they are when something is added."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workflow.corpus.test_rows import parquet
from workflow.corpus import rows, slices
from workflow.engine.errors import Problem

LINES = st.lists(
    st.sampled_from(['{"text": "A."}', '{"text": "B b.", "n": 1}', "", "{", '{"text": "\\ud83d"}']), max_size=12
)


def numbers(parsed):
    return [number for number, _ in parsed]


@given(st.lists(LINES, min_size=1, max_size=3), LINES, st.integers(1, 5))
def test_slices_cover_a_corpus_and_stay_when_it_grows(tmp_path_factory, files, more, n_rows):
    folder = tmp_path_factory.mktemp("corpus")
    for i, lines in enumerate(files):
        (folder / f"{i}.jsonl").write_text("".join(f"{line}\n" for line in [*lines, '{"text": "last"}']))
    before = slices.cut("c", folder, n_rows, {})
    for path in folder.iterdir():
        parts = [part for part in before.values() if part.file == str(path)]
        assert [n for part in parts for n in numbers(slices.records(part))] == numbers(rows.parse(path))
        assert all(part.rows == n_rows for part in parts[:-1]) and 1 <= parts[-1].rows <= n_rows
    with (folder / "0.jsonl").open("a") as file:
        file.writelines(f"{line}\n" for line in more)
    (folder / "-first.jsonl").write_text('{"text": "new"}\n')
    after = slices.cut("c", folder, n_rows, {})
    assert before.keys() <= after.keys()
    changed = [name for name, part in before.items() if after[name] != part]
    grown = [name for name, part in before.items() if part.file == str(folder / "0.jsonl") and part.rows < n_rows]
    assert changed == (grown if more else [])  # the slice that was not full


@pytest.mark.parametrize(
    ("name", "content", "grown"),
    [
        ("a.csv", b'text,n\n"two\nlines",1\nx,2\nx,3\n', b"y,4\n"),
        ("a.tsv", b"text\tn\nx\t1\nx\t2\nx\t3\n", b"y\t4\n"),
        ("a.txt", b"one\ntwo\nthree\n", b"four\n"),
        ("a.parquet", parquet([{"text": f"row {i}"} for i in range(3)]), None),
    ],
)
def test_every_format_is_cut(tmp_path, name, content, grown):
    path = tmp_path / name
    path.write_bytes(content)
    before = slices.cut("c", path, 2, {})
    assert [part.rows for part in before.values()] == [2, 1]
    assert [len(list(slices.records(part))) for part in before.values()] == [2, 1]
    path.write_bytes(content + grown if grown else parquet([{"text": f"row {i}"} for i in range(4)]))
    after = slices.cut("c", path, 2, {})
    assert [*after] == [*before] and [part.rows for part in after.values()] == [2, 2]
    assert [after[name] == before[name] for name in before] == [True, False]


def test_a_row_that_changed_is_noticed_at_the_end_of_its_slice(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(4)))
    first, second = slices.cut("c", path, 2, {}).values()
    path.write_text(path.read_text().replace('"3"', '"4"'))
    assert len(list(slices.records(first))) == 2
    with pytest.raises(Problem, match="rows that were there have changed"):
        list(slices.records(second))


def test_a_corpus_without_rows_is_named(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(Problem, match=r"annotate\.corpora\.c: .* has no rows in \.jsonl"):
        slices.cut("c", tmp_path, 2, {})
    with pytest.raises(Problem, match=r"README\.md: expected one of \.jsonl"):
        slices.cut("c", tmp_path / "README.md", 2, {})


def test_odd_files_of_a_folder(tmp_path):
    """Only files count, at any depth; a name that could not be written down is refused."""
    (tmp_path / "part.parquet").mkdir()
    (tmp_path / "part.parquet/0.parquet").write_bytes(parquet([{"text": "x"}]))
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.md").write_text("x")
    chosen, others = slices.files(tmp_path)
    assert [path.name for path in chosen] == ["0.parquet"] and [path.name for path in others] == ["notes.md"]
    assert len(slices.cut("c", tmp_path, 2, {})) == 1
    for name in (b"caf\xe9.txt", b"a\nb.txt"):
        path = tmp_path / os.fsdecode(name)
        path.write_text("x")
        with pytest.raises(Problem, match="has a name with odd characters"):
            slices.cut("c", tmp_path, 2, {})
        path.unlink()


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    seen: dict = {}
    first = slices.cut("c", path, 1, seen)
    time = path.stat().st_mtime_ns
    path.write_text("two\none\n")  # of the same size, and below of the same time
    os.utime(path, ns=(time, time))
    assert slices.cut("c", path, 1, json.loads(json.dumps(seen))) == first
    path.write_text("one\ntwo\nthree\n")
    assert len(slices.cut("c", path, 1, seen)) == 3
