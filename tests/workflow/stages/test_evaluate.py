"""Labels are data: any is drawn, and two never become one."""

import json
import warnings

import numpy as np
import pytest
from matplotlib import pyplot

from workflow.corpus.predictions import Prediction
from workflow.model import scores
from workflow.stages import evaluate

LABELS = [
    ["$1k_to_$5k", "over $5k"],
    ["\\frac{", "$$"],
    ["C+", "C#"],
    ["👍", "👎"],
    ["好", "坏"],
    ["a\nb", "a b"],
    ["a\0", "\x1b[0m"],
    ["%s", "{}"],
    ["_", "|"],
    ["</script>", "<b>"],
    ["long " * 600, "long " * 600 + "!"],
]


@pytest.fixture(autouse=True)
def close():
    yield
    pyplot.close("all")


@pytest.mark.parametrize("labels", LABELS, ids=lambda labels: ascii(labels[0][:10]))
@pytest.mark.parametrize("exclusive", [True, False])
def test_any_label_draws(tmp_path, labels, exclusive):
    gold, predicted = np.eye(2), np.array([[0.9, 0.1], [0.6, 0.4]])
    confusion, _ = evaluate._confusion(gold, scores.decide(predicted, exclusive), labels, exclusive)
    sides = {side for record in confusion for side in record.values()}
    assert len(sides) == (2 if exclusive else 4)
    table, error = scores.calibration(gold, predicted, exclusive)
    with warnings.catch_warnings(action="error"):  # of characters that the font lacks, or too little space
        evaluate._plot(tmp_path, confusion, table, labels, {"accuracy": 0.5, "calibration_error": error})
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_labels_that_are_drawn_as_they_are():
    assert [evaluate._drawable(label) for label in ("positive", "$5", "très bien", "üб")] == [
        "positive",
        "$5",
        "très bien",
        "üб",
    ]
    assert [evaluate._drawable(label) for label in ("👍", "a\nb")] == ["\\U0001f44d", "a\\nb"]


def test_a_label_is_not_the_negation_of_another():
    gold, decided = np.array([[1, 0], [0, 1]]), np.array([[True, False], [True, False]])
    confusion, _ = evaluate._confusion(gold, decided, ["A", "not A"], False)
    assert [record["actual"] for record in confusion] == ["A", "not not not A", "not not A", "not A"]
    plain, _ = evaluate._confusion(gold, decided, ["A", "B"], False)
    assert [record["predicted"] for record in plain] == ["A", "not B", "A", "not B"]


@pytest.mark.parametrize("exclusive", [True, False])
def test_thousands_of_labels_are_folded_into_those_that_are_confused(tmp_path, exclusive):
    n_docs, n_labels = 300, 5000
    labels = [f"label {i:04}" for i in range(n_labels - 1)] + ["other labels"]
    gold = np.zeros((n_docs, n_labels))
    gold[np.arange(n_docs), np.arange(n_docs)] = 1
    predicted = np.where(gold == 1, 0.9, 0.0)
    for doc, wrong in ((0, 7), (1, 7), (1, 7), (8, 9)):
        predicted[doc] = np.arange(n_labels) == wrong
    gold[1] = gold[0]
    decided = scores.decide(predicted, exclusive)
    confusion, confused = evaluate._confusion(gold, decided, labels, exclusive)
    assert confused[0] == (
        {"actual": labels[0], "predicted": labels[7], "count": 2}
        if exclusive
        else {"actual": labels[0], "predicted": f"not {labels[0]}", "count": 2}
    )
    sides = {side for record in confusion for side in record.values()}
    assert {labels[0], labels[8]} <= sides and len(confusion) == (n_docs if exclusive else 30 * n_docs)
    assert len(sides) <= (31 if exclusive else 60) and ("(other labels)" in sides) == exclusive
    if exclusive:
        table, _ = scores.calibration(gold, predicted, exclusive)
        evaluate._plot(tmp_path, confusion, table, labels, {"accuracy": 0.5, "calibration_error": 0.1})
        assert 1000 < (tmp_path / "confusion.png").stat().st_size < 10**6
    predictions = [Prediction("a:1", "x", list(gold[0]), list(predicted[0]))]
    assert list(evaluate._save_each(predictions, tmp_path / "saved.jsonl", labels, exclusive, 0.5)) == predictions
    saved = json.loads((tmp_path / "saved.jsonl").read_text())
    assert (
        saved["gold"] == {labels[0]: 1}
        and saved["right"] is False
        and saved["predicted"] == [labels[7]]
        and len(saved["scores"]) == 100
        and saved["scores"][labels[7]] == 1
    )
    row = {"row": "a:1", "text": "x", "gold": {labels[0]: 1}, "scores": dict(zip(labels, predicted[0], strict=True))}
    (tmp_path / "test.jsonl").write_text("\n".join([json.dumps(row)] * n_docs))
    loss = scores.log_loss(gold, predicted, exclusive)
    [worst, *_] = evaluate._worst(tmp_path / "test.jsonl", loss, scores.correct(gold, decided), 2)
    assert len(worst["scores"]) == 30 and next(iter(worst["scores"])) == labels[7]
