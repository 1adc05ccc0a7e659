"""Predict a slice of unlabelled text with the model that is best on dev, and sum up what it predicts."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..corpus import rows, slices
from ..corpus.rows import Tally
from ..corpus.slices import Slice
from ..engine.errors import printable
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import predictor

REPORT = "report.json"
STEPS = 20  # of the histogram of confidence


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    out = outputs["annotated"]
    report = annotate(slices.load()[out.name], inputs["best"] / "pipeline", params, out)
    write_json(out / REPORT, report)
    shares = ", ".join(f"{label} {n}" for label, n in list(report["labels"].items())[:10])
    print(printable(f"{report['documents']} documents: {shares}"))


def annotate(part: Slice, model: Path, params: Params, out: Path) -> dict[str, Any]:
    """Write the rows of a slice with what the model predicts. RETURNS: what they add up to."""
    tally = Tally()
    parsed = slices.records(part, rows.Names.of(params.data))
    stream = rows.read_unlabelled(Path(part.file), parsed, on_bad_row=params.data.on_bad_row, tally=tally)
    predicted = predictor.predict(model, stream, lambda record: record.text, params, processes=1)
    counts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    confidence = [0] * STEPS
    with (
        (out / slices.ANNOTATED).open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as file,
    ):
        for record, outcome in tqdm(predicted, out.name, part.rows, unit=" docs", disable=None):
            file.write(f"{record.line(outcome)}\n".encode())
            counts.update(documents=1, words=len(record.text.split()))
            labels.update([outcome["predicted"]] if isinstance(outcome["predicted"], str) else outcome["predicted"])
            confidence[min(STEPS - 1, int(STEPS * max(outcome["scores"].values())))] += 1
    return {
        "file": part.file,
        "first_row": part.first + 1,
        "documents": counts["documents"],
        "words": counts["words"],
        "skipped": tally.skipped,
        "skipped_rows": tally.reasons,
        "blank_lines": tally.blank,
        "labels": dict(labels.most_common()),
        "confidence": confidence,  # documents by their highest probability, in STEPS equal steps from 0 to 1
    }


if __name__ == "__main__":
    main("annotate", run)
