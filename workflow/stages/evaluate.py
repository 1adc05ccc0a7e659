"""Score dev and test, with confidence intervals, calibration, a confusion matrix, and errors worth reading."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from thinc.api import require_cpu
from tqdm import tqdm

from rootstock import outcomes
from rootstock.pieces.pieces import Pieces

from ..corpus import features, shards
from ..corpus.predictions import Prediction, arrays, predict
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import errors, scores
from ..model.determinism import make_deterministic


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    make_deterministic(params)
    model, evaluation = ("student", "student_evaluation") if "student" in inputs else ("model", "evaluation")
    out, exclusive = outputs[evaluation], params.data.exclusive
    pipeline = inputs[model] / "pipeline"
    if "trf_tok2vec" not in spacy.util.load_config(pipeline / "config.cfg")["nlp"]["pipeline"]:
        require_cpu()  # in production, a small student runs on CPUs
    nlp = spacy.load(pipeline)
    textcat = outcomes.classifier(nlp)
    labels = list(textcat.labels)
    thresholds = np.array([outcomes.threshold_of(textcat, label) for label in labels])
    metrics: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    doubtful: list[dict[str, Any]] = []
    for split in ("dev", "test"):
        total = shards.report(inputs[f"wordpieces/{split}"])["documents"]
        stream = predict(nlp, features.folder(inputs, split, nlp), labels)
        bar = tqdm(stream, split, total, unit=" docs", disable=None)
        stream = _save_each(bar, out / f"{split}.jsonl", labels, exclusive, thresholds)
        gold, predicted = arrays(stream, len(labels))
        decided = scores.decide(predicted, exclusive, thresholds)
        metrics[split] = scores.summarize(
            gold,
            predicted,
            decided,
            labels,
            exclusive=exclusive,
            confidence=params.evaluate.confidence,
            resamples=params.evaluate.resamples,
            seed=params.seed,
        )
        right = scores.correct(gold, decided)
        kinds[split] = errors.by_kind(_facts(inputs[f"wordpieces/{split}"], nlp), right)
        doubts = errors.doubtful(gold, predicted, exclusive)[: params.evaluate.worst]
        rows = _rows(out / f"{split}.jsonl", [doc for doc, _, _ in doubts])
        doubtful += [
            {"split": split, **row, "label": labels[label], "probability": round(p, 4)}
            for row, (_, label, p) in zip(rows, doubts, strict=True)
        ]
    # From here on, the arrays are those of test.
    table, _ = scores.calibration(gold, predicted, exclusive)
    write_json(out / "metrics.json", metrics)
    write_json(out / "calibration.json", table)
    write_json(
        out / "worst.json",
        _worst(out / "test.jsonl", scores.log_loss(gold, predicted, exclusive), right, params.evaluate.worst),
    )
    confusion, confused = _confusion(gold, decided, labels, exclusive)
    write_json(out / "confusion.json", confusion)
    write_json(out / "confused.json", confused)
    write_json(out / "kinds.json", kinds)
    write_json(out / "doubtful.json", doubtful)
    _plot(out, confusion, table, labels, metrics["test"])
    test = metrics["test"]
    interval = f"{params.evaluate.confidence:.0%} interval {test['accuracy_low']:.4f} to {test['accuracy_high']:.4f}"
    print(f"test accuracy {test['accuracy']:.4f} ({interval}), {test['documents']} documents")


def _save_each(
    predictions: Iterable[Prediction], path: Path, labels: list[str], exclusive: bool, thresholds: np.ndarray
) -> Iterator[Prediction]:
    """Write each prediction to the file before passing it on.

    A row has the gold labels, those that are predicted, and the scores. With more than LISTED labels it has only the
    gold labels that apply, and the LISTED highest scores.
    """
    with path.open("w", encoding="utf-8") as file:
        for p in predictions:
            gold = {label: int(value) for label, value in zip(labels, p.gold, strict=True) if not isnan(value)}
            if len(labels) > LISTED:
                gold = {label: value for label, value in gold.items() if value}
            listed = _highest(dict(zip(labels, p.scores, strict=True)), LISTED)
            decided = scores.decide(np.array([p.scores]), exclusive, thresholds)
            [right] = scores.correct(np.array([p.gold]), decided).tolist()
            predicted = [labels[i] for i in np.flatnonzero(decided[0])]
            row = {"row": p.row, "text": p.text, "gold": gold, "predicted": predicted, "right": right, "scores": listed}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield p


LISTED = 100  # labels of a predicted document; with all of 5,000, its line would have 270 kB
MOST = 30  # labels in a matrix and pairs in a list: more cannot be read, and 5,000 labels have 25 million pairs


def _confusion(
    gold: np.ndarray, decided: np.ndarray, labels: list[str], exclusive: bool
) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """One record per document (and label, if classes are not exclusive), as `dvc plots` expects; and the pairs of
    labels that are confused most often.

    Of more than MOST labels, the records name those with the most errors.
    """
    if exclusive:
        best = zip((gold == 1).argmax(axis=1), decided.argmax(axis=1), strict=True)
        sides = [(labels[a], labels[b]) for a, b in best]
    else:
        errors = ((decided != (gold == 1)) & ~np.isnan(gold)).sum(axis=0)
        shown = np.sort(np.argsort(-errors, kind="stable")[:MOST]).tolist()
        negated = "not "
        while any(negated + name in labels for name in labels):  # such as "A" and "not A"
            negated += "not "
        sides = [
            (labels[j] if gold[i, j] else negated + labels[j], labels[j] if decided[i, j] else negated + labels[j])
            for i in range(len(gold))
            for j in shown
            if not np.isnan(gold[i, j])
        ]
    pairs = Counter(sides)
    wrong_first = sorted(pairs, key=lambda pair: (pair[0] == pair[1], -pairs[pair]))
    confused = [{"actual": a, "predicted": b, "count": pairs[a, b]} for a, b in wrong_first[:MOST] if a != b]
    names = {name: name for pair in pairs for name in pair}
    if exclusive and len(labels) > MOST:
        named = list(dict.fromkeys(name for pair in wrong_first for name in pair))[:MOST]
        other = "other labels"
        while other in labels:
            other = f"({other})"
        names = {**dict.fromkeys(names, other), **dict(zip(named, named, strict=True))}
    # Equal pairs share one record: there may be millions of documents.
    records = {(a, b): {"actual": names[a], "predicted": names[b]} for a, b in pairs}
    return [records[pair] for pair in sides], confused


def _worst(path: Path, loss: np.ndarray, right: np.ndarray, n: int) -> list[dict[str, Any]]:
    """The errors with the highest loss, read from the saved predictions. loss, right: (n_docs,)."""
    wrong = np.flatnonzero(~right)
    return _rows(path, wrong[np.argsort(-loss[wrong], kind="stable")][:n].tolist())


def _rows(path: Path, documents: list[int]) -> list[dict[str, Any]]:
    """Saved predictions of these documents, in this order, with the labels that apply and the highest scores."""
    selected = set(documents)
    with path.open(encoding="utf-8") as file:
        rows = {i: json.loads(line) for i, line in enumerate(file) if i in selected}
    return [
        {
            **rows[i],
            "gold": [label for label, holds in rows[i]["gold"].items() if holds],
            "scores": {label: round(score, 4) for label, score in _highest(rows[i]["scores"], MOST).items()},
        }
        for i in documents
    ]


def _facts(wordpieces: Path, nlp: Language) -> Iterator[errors.Facts]:
    """What errors in a split may come from, in the order of its documents."""
    unknown = nlp.get_pipe("trf_wordpiecer").tokenizer.unk_token_id if nlp.has_pipe("trf_wordpiecer") else None
    for doc in shards.read(shards.files(wordpieces), nlp.vocab):
        n_unknown = int((Pieces.of(doc, aligned=False).ids == unknown).sum())
        yield errors.Facts(len(doc), sum(1 for _ in doc.sents), n_unknown)


def _highest(scores: dict[str, float], most: int) -> dict[str, float]:
    """All scores, or the highest if there are more than `most`."""
    return scores if len(scores) <= most else dict(sorted(scores.items(), key=lambda item: -item[1])[:most])


def _plot(out: Path, confusion: list[dict[str, str]], table: list[dict], labels: list[str], test: dict) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["text.parse_math"] = False  # a label may have dollar signs
    from matplotlib import pyplot as plt

    names = sorted({side for record in confusion for side in record.values()})
    index = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), int)
    for record in confusion:
        counts[index[record["actual"]], index[record["predicted"]]] += 1
    size = min(12, max(3.6, 0.9 * len(names) + 1.5))
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    axes.imshow(counts, cmap="Blues")
    for (i, j), count in np.ndenumerate(counts) if len(names) <= MOST + 1 else []:
        axes.text(j, i, count, ha="center", va="center", color="white" if count > counts.max() / 2 else "black")
    ticks = [_drawable(name) for name in names]
    axes.set_xticks(range(len(names)), ticks, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), ticks)
    axes.set(xlabel="predicted", ylabel="actual", title=f"Test: accuracy {test['accuracy']:.3f}")
    figure.savefig(out / "confusion.png", dpi=120)

    figure, axes = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfect")
    areas = [20 + 300 * row["count"] / sum(r["count"] for r in table) for row in table]
    axes.scatter(
        [r["confidence"] for r in table], [r["accuracy"] for r in table], areas, alpha=0.7, label="size: documents"
    )
    axes.set(xlabel="confidence", ylabel="share that is correct", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_title(f"Test: calibration error {test['calibration_error']:.3f}")
    axes.legend(loc="upper left")
    figure.savefig(out / "calibration.png", dpi=120)


def _drawable(label: str, longest: int = 40) -> str:
    """A label as it is drawn: with codes for characters that the font lacks, and shortened if it is long."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    drawn = [char if font.get_char_index(ord(char)) else ascii(char)[1:-1] for char in label]
    return "".join(drawn if len(drawn) <= longest else [*drawn[: longest - 1], "…"])


if __name__ == "__main__":
    main("evaluate", run)
