"""Build the installable pipeline, install it where this checkout cannot be seen, and hold it against evaluate."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import spacy

from ..corpus.predictions import BATCH
from ..engine.errors import Problem
from ..engine.params import Params
from ..engine.stage import main
from ..model.wheels import ask_installed, build_library, build_pipeline

CHECKED = 4 * BATCH  # documents of test; whole batches, so that the same numbers must come out


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    out = outputs["package"]
    best = json.loads((inputs["comparison"] / "best.json").read_text("utf-8"))["point"]
    model, evaluation = inputs["model"] / best, inputs["evaluation"] / best
    name = f"{params.language}_{params.package.name}"
    card = model_card(params.at(best), inputs["weights"], evaluation)
    with tempfile.TemporaryDirectory() as tmp:
        build_library(Path(tmp), out)
        nlp = spacy.load(model / "pipeline")
        build_pipeline(nlp, params.package.model_dump(), card, Path(tmp), out)
        check(name, out, evaluation / "test.jsonl", params.threads, Path(tmp))


def check(name: str, wheels: Path, predictions: Path, threads: int, tmp: Path) -> None:
    """Install the wheels in a new environment and compare its predictions. Raises Problem where they differ."""
    with predictions.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(CHECKED), strict=False)]
    texts = [row["text"] for row in rows]
    question = {"texts": texts, "attribute": "cats", "batch_size": BATCH, "threads": threads}
    found = ask_installed(wheels, name, question, tmp)
    differing = [row for row, scores in zip(rows, found, strict=True) if not _close(row["scores"], scores)]
    if differing:
        raise Problem(f"the installed {name} predicts otherwise than evaluate, first for {differing[0]['row']}")
    print(f"installed in a clean environment, dependencies borrowed: {len(rows)} predictions equal evaluate's")
    print("next: `python -m workflow.records.ledger` records the run in MLflow (`make repro` runs it by itself)")


def _close(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[label] - other[label]) < 1e-6 for label in one)


def model_card(params: Params, weights_folder: Path, evaluation: Path) -> str:
    """What somebody who meets the wheel wants to know; no measured time or energy, so that its bytes repeat: the ledger
    adds them to the card beside the wheel."""
    weights = json.loads((weights_folder / "weights.json").read_text("utf-8"))
    metrics = json.loads((evaluation / "metrics.json").read_text("utf-8"))
    labels = list(metrics["test"]["f1"])
    scores = "\n".join(
        f"| {split} | {m['documents']} | {m['accuracy']:.4f} | {m['accuracy_low']:.4f} to {m['accuracy_high']:.4f} "
        f"| {m['macro_f1']:.4f} | {m['calibration_error']:.4f} |"
        for split, m in metrics.items()
    )
    return f"""# {params.language}_{params.package.name} {params.package.version}

{params.package.description}

A spaCy pipeline with a transformer, fine-tuned for text classification by Rootstock.

| | |
|---|---|
| labels | {", ".join(labels)} ({"one" if params.data.exclusive else "any number"} per document) |
| pretrained weights | {weights["source"]}, licence: {weights["licence"]} |
| sha256 of model.safetensors | {weights["sha256"]["model.safetensors"]} |
| trained on | {params.data.folder} ({"transformer and head" if params.finetune.trainable else "head only"}) |
| seed | {params.seed} |

| split | documents | accuracy | {params.evaluate.confidence:.0%} interval | macro F1 | calibration error |
|---|---|---|---|---|---|
{scores}

```python
import spacy

nlp = spacy.load("{params.language}_{params.package.name}")
print(nlp("Not bad at all.").cats)
```
"""


if __name__ == "__main__":
    main("package", run)
