"""Read and check the labelled rows of a split, tokenize them and set sentence boundaries."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import spacy
from spacy.tokens import Doc
from tqdm import tqdm

from ..corpus import rows, shards
from ..corpus.repeats import Repeats, Texts
from ..corpus.rows import Row, Tally
from ..engine.errors import Problem, printable
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    folder, out = Path(params.data.folder), outputs["sentences"]
    split = out.name
    nlp = _tokenizer(params.language)
    paths = _find(folder)
    train, mine = Texts(), Texts()
    facts = _facts(paths["train"], params, train if split != "train" else None)
    labels = _labels(facts, paths["train"], params.data.exclusive)
    held_out = split == "dev" and "dev" not in paths
    per_label = Counter(dict.fromkeys(labels, 0))
    counts: Counter[str] = Counter()
    path = paths.get(split, paths["train"])
    tally = Tally(log=None if held_out else partial(_append, out / "skipped.txt"))
    stream = _split_rows(split, paths, params, facts, set(labels), tally, counts)
    docs = _documents(nlp, mine.noting(stream), labels, counts, per_label)
    shards.write(tqdm(docs, split, unit=" docs", disable=None), out, params.sentencize.shard_docs)
    if not counts["documents"]:
        hint = "; raise data.dev_fraction, or add a dev file" if held_out else ""
        raise Problem(f"{path}: no usable row for the split {split}{hint}")
    if held_out:
        tally = Tally()  # these rows come from the train file, and are counted in the report of train
        absent = [label for label in labels if not per_label[label]]
        rare = f"; too rare for it: {rows.listed(absent)}" if absent else ""
        print(printable(f"dev: no file, so {counts['documents']} rows of train are held out{rare}"))
    if split == "train":
        repeated, contradicting = mine.repeated()
        found = {"repeated": repeated, "contradicting": contradicting}
        warnings = _similar(labels)
    else:
        found, warnings = {"in_train": mine.shared_with(train, same_file=held_out)}, []
    warnings += [_warning(kind, path, paths["train"], repeats) for kind, repeats in found.items() if repeats.rows]
    report = {
        "labels": labels,
        "file": str(path),
        **counts,
        "documents_per_label": per_label,
        "skipped": tally.skipped,
        "skipped_rows": tally.reasons,
        "not_accepted": tally.rejected,
        "blank_lines": tally.blank,
        **{kind: repeats.rows for kind, repeats in found.items()},
        "warnings": warnings,
    }
    if tally.skipped:
        print(f"{split}: {tally.skipped} bad rows skipped (data.on_bad_row: skip), the first: {tally.reasons[0]}")
    for warning in warnings:
        print(f"{split}: warning: {warning}")
    write_json(out / shards.REPORT, report)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def _warning(kind: str, path: Path, train: Path, repeats: Repeats) -> str:
    examples = ", ".join(f"{path}:{line} (in {train}:{first})" for line, first in repeats.examples)
    examples += ", ..." if repeats.rows > len(repeats.examples) else ""
    says = {
        "repeated": f"{repeats.rows} rows have the text of an earlier row: {examples}",
        "contradicting": f"{repeats.rows} rows have the text of an earlier row, but other labels: {examples}",
        "in_train": f"{repeats.rows} rows have a text that is in train, too, so scores may be too high: {examples}",
    }
    return printable(says[kind])


def _similar(labels: list[str]) -> list[str]:
    """A warning of labels that differ only in case, white space, or how Unicode writes or shows a character."""
    alike = defaultdict(list)
    for label in labels:
        visible = (
            c for c in unicodedata.normalize("NFC", label) if not c.isspace() and unicodedata.category(c) != "Cf"
        )
        alike["".join(visible).casefold()].append(repr(label))
    groups = [" and ".join(group) for group in alike.values() if len(group) > 1]
    return [f"labels that differ only in case or white space: {rows.listed(groups)}"] if groups else []


def _tokenizer(language: str) -> spacy.Language:
    try:
        nlp = shards.blank(language)
    except ImportError as error:
        raise Problem(f"params.yaml: language is {language!r}: {' '.join(str(error).split())}") from None
    nlp.max_length = sys.maxsize  # the limit is meant for parsers; tokenizer and sentencizer need little memory
    nlp.add_pipe("sentencizer")
    return nlp


def _find(folder: Path) -> dict[str, Path]:
    """The file of each split; dev is optional."""
    if not folder.is_dir():
        raise Problem(f"data.folder {folder}: folder not found")
    paths = {split: path for split in shards.SPLITS if (path := rows.find(folder, split))}
    for split in ("train", "test"):
        if split not in paths:
            names = ", ".join(split + suffix for suffix in rows.READERS)
            raise Problem(f"data.folder {folder} has no {split} file: expected one of {names}")
    return paths


# How many rows say that a label applies, or that it does not. A row without labels says None.
Facts = Counter[tuple[str, bool] | None]


def _said(row: Row) -> list[tuple[str, bool] | None]:
    return [*row.labels.items()] or [None]


def _facts(path: Path, params: Params, texts: Texts | None) -> Facts:
    """What the rows of the train file say. Raises Problem at a bad row, as on_bad_row says. texts: gets their texts."""
    data = params.data
    names = rows.Names.of(data)
    stream = rows.read(path, exclusive=data.exclusive, on_bad_row=data.on_bad_row, tally=Tally(), names=names)
    return Counter(fact for row in (texts.noting(stream) if texts else stream) for fact in _said(row))


def _labels(facts: Facts, path: Path, exclusive: bool) -> list[str]:
    """All labels of the train file, sorted."""
    labels = sorted({fact[0] for fact in facts if fact})
    if not labels:
        raise Problem(f"{path}: no usable row")
    if exclusive and len(labels) < 2:
        raise Problem(
            f"{path}: all rows have the label {labels[0]!r}; data.exclusive: true requires two labels or more"
        )
    return labels


def _split_rows(
    split: str,
    paths: dict[str, Path],
    params: Params,
    facts: Facts,
    labels: set[str],
    tally: Tally,
    counts: Counter[str],
) -> Iterator[Row]:
    """The rows of a split. Without a dev file, a share of the train file is held out as dev."""
    held_out = "dev" not in paths and split != "test"
    stream = rows.read(
        paths["train" if held_out else split],
        exclusive=params.data.exclusive,
        on_bad_row=params.data.on_bad_row,
        tally=tally,
        allowed_labels=labels,
        names=rows.Names.of(params.data),
    )
    if not held_out:
        yield from stream
        return
    for row, is_dev in _hold_out(stream, facts, params.data.dev_fraction, random.Random(params.seed)):
        if is_dev == (split == "dev"):
            yield row
        else:
            counts["in_other_split"] += 1


def _hold_out(stream: Iterable[Row], facts: Facts, share: float, rng: random.Random) -> Iterator[tuple[Row, bool]]:
    """Each row of train, and whether it belongs to dev: a random share of each label's rows, but never all of them.

    The draw is selection sampling (Knuth, "The Art of Computer Programming", 3.4.2, algorithm S) for each label, and by
    the rarest label of a row that has several. It needs to know how often each occurs, but no row in memory.
    """
    left, total = facts.copy(), 0
    wanted: Facts = Counter()
    for fact in sorted(facts, key=str):
        before, total = total, total + facts[fact]
        wanted[fact] = round(total * share) - round(before * share)  # so that rare labels add up to their share
    in_train: set[tuple[str, bool] | None] = set()
    for row in stream:
        said = _said(row)
        rarest = min(said, key=facts.__getitem__)
        is_drawn = rng.random() * left[rarest] < wanted[rarest]
        is_dev = is_drawn and all(fact in in_train or left[fact] > 1 for fact in said)
        left.subtract(said)
        if is_dev:
            wanted.subtract(said)
        else:
            in_train.update(said)
        yield row, is_dev


def _documents(
    nlp: spacy.Language, stream: Iterable[Row], labels: list[str], counts: Counter, per_label: Counter
) -> Iterator[Doc]:
    for doc, row in nlp.pipe(((row.text, row) for row in stream), as_tuples=True):
        annotated = {label: float(applies) for label, applies in row.labels.items()}
        doc.cats = {**dict.fromkeys(labels, 0.0), **annotated} if row.complete else annotated
        doc.user_data[shards.ROW] = row.where
        counts.update(documents=1, tokens=len(doc), sentences=sum(1 for _ in doc.sents))
        per_label.update(label for label, applies in row.labels.items() if applies)
        yield doc


if __name__ == "__main__":
    main("sentencize", run)
