"""Build the wheel of a student, install it where there is only what it needs, and compare student and teacher."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from thinc.api import require_cpu

from ..corpus.predictions import BATCH
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import scores, speed
from ..model.card import listed, model_card, origin, score_table
from ..model.determinism import make_deterministic
from ..model.sbom import write_sbom
from ..model.wheels import build_library, build_pipeline, check_predictions

TIMED = 500  # test documents


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    make_deterministic(params.model_copy(update={"threads": 1}))
    require_cpu()  # both are timed on one core
    out = outputs["student_package"]
    best = json.loads((inputs["comparison"] / "best.json").read_text("utf-8"))["point"]
    models = {"teacher": inputs["best"] / "pipeline", "student": inputs["student"] / "pipeline"}
    evaluations = {"teacher": inputs["evaluation"] / best, "student": inputs["student_evaluation"]}
    pipelines = {who: spacy.load(model) for who, model in models.items()}
    build(params, out.name, pipelines["student"], evaluations, inputs["weights"], out)
    comparison = {"small": not pipelines["student"].has_pipe("trf_tok2vec"), **compared(evaluations)}
    write_json(out / "comparison.json", comparison)
    texts = [row["text"] for row in _rows(evaluations["student"] / "test.jsonl")[:TIMED]]
    measured = speed.compare(pipelines, texts, params.carbon)
    for who, figures in measured.items():
        figures["mb"] = speed.megabytes(models[who])
        pace = f"{figures['words_per_second']:,.0f} words/s on one core"
        print(f"{who}: test accuracy {comparison[who]['accuracy']:.4f}, {pace}, {figures['mb']:.1f} MB")
    return {"speed": measured}


def build(
    params: Params, student: str, nlp: spacy.Language, evaluations: dict[str, Path], weights: Path, out: Path
) -> None:
    """Build the wheel and its bill of materials, and check it. With a transformer it needs the library's wheel, too."""
    has_transformer = nlp.has_pipe("trf_tok2vec")
    kind = "spaCy pipeline with a transformer" if has_transformer else "small spaCy pipeline"
    meta = params.package.model_copy(update={"name": f"{params.package.name}_{student}"})
    name = f"{params.language}_{meta.name}"
    metrics = {who: json.loads((path / "metrics.json").read_text("utf-8")) for who, path in evaluations.items()}
    facts = {
        "labels": listed(list(metrics["student"]["test"]["f1"]), "one" if params.data.exclusive else "any number"),
        "learned from": f"a transformer with test accuracy {metrics['teacher']['test']['accuracy']:.4f}",
        **(origin(weights) if has_transformer else {}),
        "seed": params.seed,
    }
    readme = model_card(
        params.language,
        meta,
        f"A {kind} for text classification, trained by Rootstock on what another model predicts.",
        facts,
        'print(nlp("Not bad at all.").cats)',
        score_table(metrics["student"], params.evaluate.confidence),
    )
    with tempfile.TemporaryDirectory() as tmp:
        if has_transformer:
            build_library(Path(tmp), out)
            required = {}
        else:  # spaCy leaves itself out of what a wheel requires
            required = {"requirements": [f"spacy{nlp.meta['spacy_version']}"]}
        build_pipeline(nlp, meta.model_dump() | required, readme, Path(tmp), out)
        write_sbom(name, out, weights if has_transformer else None)
        predictions, needs = evaluations["student"] / "test.jsonl", None if has_transformer else "spacy"
        n = check_predictions(name, out, predictions, BATCH, params.threads, Path(tmp), needs)
    where = "a clean environment" if has_transformer else "a clean environment with spaCy alone"
    print(f"installed in {where}: {n} predictions equal evaluate's")


def compared(evaluations: dict[str, Path]) -> dict[str, Any]:
    """The test scores of teacher and student, how often they agree, and McNemar's p-value."""
    rows = {who: _rows(path / "test.jsonl") for who, path in evaluations.items()}
    right = {who: np.array([row["right"] for row in found]) for who, found in rows.items()}
    same = [a["predicted"] == b["predicted"] for a, b in zip(rows["teacher"], rows["student"], strict=True)]
    tests = {who: json.loads((path / "metrics.json").read_text("utf-8"))["test"] for who, path in evaluations.items()}
    return {
        **{who: {key: test[key] for key in scores.SHOWN} for who, test in tests.items()},
        "documents": len(same),
        "agreement": round(float(np.mean(same)), 6),
        "test_p": scores.mcnemar(right["teacher"], right["student"]),
    }


def _rows(predictions: Path) -> list[dict[str, Any]]:
    with predictions.open(encoding="utf-8") as file:
        return list(map(json.loads, file))


if __name__ == "__main__":
    main("package_student", run)
