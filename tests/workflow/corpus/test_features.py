import json

import numpy as np
import pytest
import spacy
from hypothesis import given

from tests import soak
from tests.conftest import pipeline
from tests.workflow.corpus.test_shards import CHANGES, bytes_of, damaged
from workflow.corpus import features, shards
from workflow.engine.errors import Problem
from workflow.files import digest


def test_a_reduced_document_keeps_features_labels_and_text_but_no_tokens(tiny, tmp_path):
    nlp = pipeline(tiny)
    doc = next(nlp.pipe(["One. Two."]))
    doc.cats, doc.user_data[shards.ROW] = {"A": 1.0}, "train.jsonl:1"
    shards.write([features.reduced(doc, np.ones((2, 16), "float32"))], tmp_path, 2)
    (stored,) = shards.read(shards.files(tmp_path), nlp.vocab)
    assert (len(stored), stored.cats, stored.user_data[shards.ROW]) == (0, {"A": 1.0}, "train.jsonl:1")
    assert stored.user_data[features.TEXT] == "One. Two."
    np.testing.assert_array_equal(stored.user_data[features.ROWS], np.ones((2, 16)))


@pytest.fixture(scope="module")
def stored(tiny, tmp_path_factory):
    """The bytes of a shard of features, and of its documents."""
    nlp = pipeline(tiny)
    doc = next(nlp.pipe(["One. Two."]))
    doc.user_data[shards.ROW] = "train.jsonl:1"
    docs = [features.reduced(doc, np.ones((2, 16), "float32"))]
    folder = tmp_path_factory.mktemp("features")
    shards.write(docs, folder, 2)
    return (folder / "00000.spacy").read_bytes(), bytes_of(docs)


@soak.fuzz("features", many=8000)
@given(CHANGES)
def test_damaged_features_are_named_and_never_used(tmp_path, stored, changes):
    data, expected = stored
    path = tmp_path / "00000.spacy"
    path.write_bytes(damaged(data, changes))
    try:
        docs = list(shards.read([path], spacy.vocab.Vocab()))
    except Problem as problem:
        assert str(problem).startswith(f"{path}: damaged, or ") and "\n" not in str(problem)
    else:
        assert bytes_of(docs) == expected


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        ({"trainable": False}, True),
        ({"trainable": True}, False),
        ({"trainable": False, "precision": "bf16"}, False),
        ({"trainable": False, "saved_precision": "bf16"}, False),
    ],
)
def test_only_a_pipeline_that_would_compute_the_same_features_reads_them(tiny, tmp_path, settings, used):
    nlp = pipeline(tiny, **settings)
    nlp.add_pipe("trf_textcat", config={"head": "mean"})
    inputs = {"features": tmp_path, "wordpieces/dev": tmp_path / "pieces"}
    (tmp_path / features.REPORT).write_text("{}")
    assert features.folder(inputs, "dev", nlp) == tmp_path / "pieces"
    (tmp_path / features.REPORT).write_text('{"precision": "fp32", "kernels": true, "head": "mean"}')
    assert features.folder(inputs, "dev", nlp) == tmp_path / ("dev" if used else "pieces")
    nlp.remove_pipe("trf_textcat")
    nlp.add_pipe("trf_textcat")
    assert features.folder(inputs, "dev", nlp) == tmp_path / "pieces", "another head reads other rows"


@pytest.mark.slow
def test_points_of_a_sweep_reuse_stored_features(finished, tmp_path):
    """Curves and predictions are the same as without stored features, and change if the stored features change."""
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.trainable": False, "finetune.epochs": 2, "sweep": {"base": {}, "hot": {"seed": 1}}})
    data = project.folder / "data"

    def losses_and_scores():
        for name in ("encode", "finetune@hot", "evaluate@hot"):
            project.stage(name)
        curve = json.loads((data / "model/hot/dev_curve.json").read_text())
        predictions = map(json.loads, (data / "evaluation/hot/test.jsonl").read_text().splitlines())
        return [point["dev_loss"] for point in curve] + [p["scores"]["POSITIVE"] for p in predictions]

    without_features = losses_and_scores()
    assert not list((data / "features").rglob("*.spacy"))
    project.set(**{"encode.features": True})
    assert losses_and_scores() == pytest.approx(without_features, abs=1e-5)
    vocab = spacy.blank("en").vocab
    dev = list(shards.read(shards.files(data / "features/dev"), vocab))
    for doc in dev:
        doc.user_data[features.ROWS] = 0 * doc.user_data[features.ROWS]
    shards.write(dev, data / "features/dev", 500)
    receipt = json.loads((data / "receipts/encode.json").read_text())
    receipt["outs"] = {out: digest(project.folder / out) for out in receipt["outs"]}  # else the change is refused
    (data / "receipts/encode.json").write_text(json.dumps(receipt))
    project.stage("finetune@hot")
    assert json.loads((data / "model/hot/dev_curve.json").read_text())[0]["dev_loss"] != pytest.approx(
        without_features[0]
    )
