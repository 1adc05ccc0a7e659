"""Students of a model that is trained on SST-2, with the sentences of IMDB's reviews as unlabelled text."""

from __future__ import annotations

import json
from pathlib import Path

from . import data, sst2
from .classifiers import TfIdf
from .harness import Contender, Measurement, extract, run_interleaved
from .report import Report

MODEL2VEC = "Model2Vec"
STUDENTS = {
    "cnn": {},
    "cnn, gold labels alone": {"documents": 1, "gold": 1.0},
    "cnn without the teacher's vectors": {"vectors": 0},
    "cnn without the teacher's vectors, gold labels alone": {"vectors": 0, "documents": 1, "gold": 1.0},
    "ngrams": {"architecture": "ngrams"},
    "ngrams, gold labels alone": {"architecture": "ngrams", "documents": 1, "gold": 1.0},
}


def run(full: bool) -> Report:
    """The cnn; with --full all of them."""
    chosen = dict(list(STUDENTS.items())[: None if full else 1])
    names = {f"student_{i}": title for i, title in enumerate(chosen)}
    settings = {name: chosen[title] for name, title in names.items()}
    corpora = {"imdb": str(sst2.sentences())}
    folder = sst2.run("package_student", annotate={"corpora": corpora}, distill={"students": settings})
    notes = [line(folder, name, title) for name, title in names.items()]
    notes.append(f"TF-IDF, logistic regression, gold labels: test {TfIdf()(str(data.SHARED / 'sst2'), 0)['test']:.4f}")
    contenders = [
        Contender(title, "benchmarks.static:Student", pipeline=folder / f"data/student/{name}/pipeline")
        for name, title in names.items()
    ]
    paths = {"weights": folder / "data/weights", "annotated": folder / "data/annotated"}
    contenders.append(Contender(MODEL2VEC, "benchmarks.static:Model2Vec", data.MODEL2VEC_PYTHON, **paths))
    rounds = run_interleaved(contenders, [{}] * 3)
    peer = rounds[0][MODEL2VEC]
    notes.append(f"{MODEL2VEC}: test {peer['accuracy']:.4f}, {peer['mb']:.1f} MB")
    report = Report("distill", notes=notes, threads="1")
    speeds = extract(rounds, "words_per_second")
    report.add(Measurement("SST-2's test split, one core", "words/s", MODEL2VEC, speeds))
    return report


def line(folder: Path, name: str, title: str) -> str:
    """A student in one line."""
    facts = json.loads((folder / f"data/student_package/{name}/comparison.json").read_text("utf-8"))
    speed = json.loads((folder / f"data/receipts/package_student@{name}.json").read_text("utf-8"))["speed"]
    student, teacher = (facts[who] | speed[who] for who in ("student", "teacher"))
    energy = [f"{1000 * figures['wh_per_1000']:.2f}" for figures in (student, teacher)]
    faster = student["words_per_second"] / teacher["words_per_second"]
    pace = f"{student['words_per_second']:,.0f} words/s on one core, {faster:.1f} times the teacher's"
    return (
        f"{title}: test {student['accuracy']:.4f}, {student['accuracy'] / teacher['accuracy']:.3f} of the teacher's "
        f"{teacher['accuracy']:.4f}; they agree on {facts['agreement']:.3f}; {pace}; {student['mb']:.1f} MB; "
        f"{energy[0]} mWh per 1,000 documents, the teacher {energy[1]}"
    )
