"""Build the installable pipeline, install it in a clean environment, and compare its predictions with evaluate's."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path

import spacy

from ..corpus.predictions import BATCH
from ..engine.errors import Problem
from ..engine.params import Params
from ..engine.stage import main
from ..model.card import model_card, origin, score_table
from ..model.points import at_point
from ..model.sbom import write_sbom
from ..model.wheels import ask_installed, build_library, build_pipeline

LISTED = 20  # labels in the model card
CHECKED = 4 * BATCH  # test documents to compare; whole batches, so that scores must be equal


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    out = outputs["package"]
    best = json.loads((inputs["comparison"] / "best.json").read_text("utf-8"))["point"]
    model, evaluation = inputs["model"] / best, inputs["evaluation"] / best
    name = f"{params.language}_{params.package.name}"
    readme = card(at_point(params, best), inputs["weights"], model, evaluation)
    with tempfile.TemporaryDirectory() as tmp:
        build_library(Path(tmp), out)
        nlp = spacy.load(model / "pipeline")
        build_pipeline(nlp, params.package.model_dump(), readme, Path(tmp), out)
        write_sbom(name, out, inputs["weights"])
        check(name, out, evaluation / "test.jsonl", params.threads, Path(tmp))


def check(name: str, wheels: Path, predictions: Path, threads: int, tmp: Path) -> None:
    """Install the wheels in a clean environment and compare the predictions there. Raises Problem if they differ."""
    with predictions.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(CHECKED), strict=False)]
    texts = [row["text"] for row in rows]
    question = {"texts": texts, "attribute": "cats", "batch_size": BATCH, "threads": threads}
    installed = ask_installed(wheels, name, question, tmp)
    differing = [row for row, predicted in zip(rows, installed, strict=True) if not _close(row["scores"], predicted)]
    if differing:
        raise Problem(f"predictions of the installed {name} differ from evaluate's, first for {differing[0]['row']}")
    print(f"installed in a clean environment (with this one's dependencies): {len(rows)} predictions equal evaluate's")
    print("next: `python -m workflow.records.ledger` records the run in MLflow (`make repro` runs it by itself)")


def _close(evaluated: dict[str, float], installed: dict[str, float]) -> bool:
    """Whether the scores are equal: evaluate lists those of the most probable labels."""
    return all(abs(score - installed.get(label, math.inf)) < 1e-6 for label, score in evaluated.items())


def card(params: Params, weights: Path, model: Path, evaluation: Path) -> str:
    """The model card of a fine-tuned pipeline."""
    metrics = json.loads((evaluation / "metrics.json").read_text("utf-8"))
    per_document = "one" if params.data.exclusive else "any number"
    facts = {
        "labels": listed(list(metrics["test"]["f1"]), per_document),
        **origin(weights),
        "trained on": f"{params.data.folder} ({'transformer and head' if params.finetune.trainable else 'head only'})",
        "seed": params.seed,
    }
    thresholds = json.loads((model / "pipeline/trf_textcat/cfg").read_text("utf-8"))["thresholds"]
    if thresholds:
        each = ", ".join(f"{shown(label)} {value:.3f}" for label, value in list(thresholds.items())[:LISTED])
        facts["predicted from a probability of"] = each + (", ..." if len(thresholds) > LISTED else "")
    return model_card(
        params.language,
        params.package,
        "A spaCy pipeline with a transformer, fine-tuned for text classification by Rootstock.",
        facts,
        'print(nlp("Not bad at all.").cats)',
        score_table(metrics, params.evaluate.confidence),
    )


def listed(labels: list[str], per_document: str) -> str:
    """How many labels there are, and the first of them."""
    some = f", the first {LISTED}" if len(labels) > LISTED else ""
    return f"{len(labels)}, {per_document} per document{some}: {', '.join(map(shown, labels[:LISTED]))}"


def shown(label: str) -> str:
    """A label that nobody takes for another, or for two: in quotes as in JSON, if it is not plain."""
    plain = label.isprintable() and label.strip() == label and "  " not in label and not set(',"\\') & set(label)
    if plain:
        return label
    quoted = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(label, ensure_ascii=False))
    return re.sub(" (?= )", r"\\u0020", quoted)


if __name__ == "__main__":
    main("package", run)
