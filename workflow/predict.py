"""Predict rows with a trained model: `python -m workflow.predict MODEL [FILE ...] > predictions.jsonl`.

Rows are JSON Lines, CSV, TSV, Parquet or plain text, with a column `text`, or as data.text says. Each becomes a line of
JSON, in order: all its columns, and what the model predicts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from .corpus import rows
from .corpus.rows import STDIN, Record, Tally
from .engine import command, params
from .engine.attempt import read_receipt, require_as_made
from .engine.errors import Problem
from .files import digest


def main() -> None:
    parser = argparse.ArgumentParser("python -m workflow.predict", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument(
        "model", help="a point of the sweep, a folder, an installed package, or models:/NAME@best of MLflow"
    )
    parser.add_argument("files", nargs="*", type=Path, default=[STDIN], help="rows; none: standard input")
    formats = [suffix[1:] for suffix in rows.READERS | rows.UNLABELLED]
    parser.add_argument("--format", choices=formats, default="jsonl", help="of standard input; jsonl if it is not said")
    parser.add_argument("--processes", type=int, default=1, help="they share the threads of params.yaml; 1 by default")
    arguments = parser.parse_args()
    if arguments.processes < 1:
        parser.error("--processes must be 1 or more")
    tally = Tally(log=partial(tqdm.write, file=sys.stderr))
    with tempfile.TemporaryDirectory() as tmp:
        settings = params.load()
        model = find(arguments.model, settings, Path(tmp))
        from .model import predictor  # imports PyTorch, which takes seconds: not before the model is found

        stream = read(arguments.files, arguments.format, rows.Names.of(settings.data), tally)
        predicted = predictor.predict(model, stream, lambda record: record.text, settings, arguments.processes)
        for record, outcome in tqdm(predicted, unit=" docs", disable=None):
            print(record.line(outcome))
        sys.stdout.flush()  # here, where an error has its one line
    if tally.skipped:
        sys.exit(f"predict: bad rows that were left out: {tally.skipped}")


def read(files: list[Path], stdin_format: str, names: rows.Names, tally: Tally) -> Iterator[Record]:
    """The rows of all files. A bad row is named on stderr, and left out."""
    stdin = f".{stdin_format}"
    parsed = [rows.parse(path, stdin if path == STDIN else "", names) for path in files]  # none is opened yet
    for path, records in zip(files, parsed, strict=True):
        yield from rows.read_unlabelled(path, records, on_bad_row="skip", tally=tally)


def find(model: str, settings: params.Params, tmp: Path) -> str | Path:
    """The folder or installed package that a name stands for. tmp: a folder for what MLflow sends."""
    if model.startswith("models:/"):
        from .records.tracking import registry

        return registry.fetch(model, tmp)
    point, name = Path("data/model", model), f"finetune@{model}"
    if model in settings.sweep and (point / "pipeline").is_dir():
        require_as_made(name, str(point), read_receipt(name)["outs"][str(point)], digest(point))
        return point / "pipeline"
    if Path(model, "config.cfg").is_file():
        return Path(model)
    import spacy

    if spacy.util.is_package(model):
        return model
    raise Problem(f"{model}: no point of the sweep that is trained, no folder of a pipeline, and no installed package")


if __name__ == "__main__":
    command.main("predict", main)
