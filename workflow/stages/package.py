"""Build the installable pipeline, install it in a clean environment, and compare its predictions with evaluate's."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import spacy

from ..corpus.predictions import BATCH
from ..engine.params import Params
from ..engine.stage import main
from ..model.card import LISTED, listed, model_card, origin, score_table, shown
from ..model.points import at_point
from ..model.sbom import write_sbom
from ..model.wheels import build_library, build_pipeline, check_predictions


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
        n = check_predictions(name, out, evaluation / "test.jsonl", BATCH, params.threads, Path(tmp))
    print(f"installed in a clean environment (with this one's dependencies): {n} predictions equal evaluate's")
    print("next: `python -m workflow.records.ledger` records the run in MLflow (`make repro` runs it by itself)")


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


if __name__ == "__main__":
    main("package", run)
