"""Temperature scaling: of a saved pipeline, on dev."""

import numpy as np
import pytest
import spacy

from tests.conftest import pipeline
from workflow.corpus import shards
from workflow.corpus.predictions import arrays, predict
from workflow.model import scores, temperature

LABELS = ["A", "B", "C"]
TEXTS = [f"Text {number}. {'It goes on. ' * (number % 3)}" for number in range(60)]


@pytest.fixture(scope="module", params=[True, False], ids=["exclusive", "several labels"])
def saved(tiny, tmp_path_factory, request):
    """A pipeline whose logits are three times as large as those that labels were drawn from, and dev."""
    folder, rng = tmp_path_factory.mktemp("saved"), np.random.default_rng(0)
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat", config={"exclusive_classes": request.param})
    for label in LABELS:
        head.add_label(label)
    head.set_weights(rng.normal(0, 0.5, (3, 16)).astype("float32"), np.zeros(3, "float32"))
    docs = list(nlp.pipe(TEXTS))
    for doc in docs:
        p = np.array(list(doc.cats.values()))
        drawn = np.arange(3) == rng.choice(3, p=p / p.sum()) if request.param else rng.random(3) < p
        doc.cats = dict(zip(LABELS, drawn.astype(float).tolist(), strict=True))
        doc.user_data[shards.ROW] = "dev.jsonl:1"
    shards.write(docs, folder / "dev", 500)
    head.set_weights(3 * head.linear.get_param("W"), head.linear.get_param("b"))
    nlp.to_disk(folder / "pipeline")
    return folder, request.param


def dev_scores(folder, exclusive):
    nlp = spacy.load(folder / "pipeline")
    gold, predicted = arrays(predict(nlp, folder / "dev", LABELS), 3)
    loss = scores.log_loss(gold, predicted, exclusive).mean()
    return predicted, {
        "log_loss": pytest.approx(loss, abs=1e-5),
        "calibration_error": pytest.approx(scores.calibration(gold, predicted, exclusive)[1], abs=1e-4),
    }


def test_the_temperature_is_found_and_the_pipeline_has_it(saved):
    folder, exclusive = saved

    def calibrated() -> dict:
        nlp = spacy.load(folder / "pipeline")
        found = temperature.calibrate(nlp, shards.read(shards.files(folder / "dev"), nlp.vocab), exclusive)
        nlp.to_disk(folder / "pipeline")
        return found

    before, expected = dev_scores(folder, exclusive)
    found = calibrated()
    assert 1.5 < found["temperature"] < 6 and found["before"] == expected
    after, expected = dev_scores(folder, exclusive)
    assert found["after"] == expected and found["after"]["log_loss"] < found["before"]["log_loss"]
    assert np.abs(after - before).max() > 0.05
    assert calibrated()["temperature"] == pytest.approx(1.0, abs=1e-3), "it is calibrated"
