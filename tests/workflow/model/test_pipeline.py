"""The pipeline that is trained follows params.yaml, and the weights where it says `auto`."""

import json
import shutil

import pytest

from tests.conftest import ROOT
from workflow.engine import params
from workflow.model.pipeline import build, pretrained_head

SETTINGS = params.load(ROOT / "params.yaml")


def with_settings(**changes) -> params.Params:
    return SETTINGS.model_copy(update={"finetune": SETTINGS.finetune.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("modes", "head"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "class_vector"),
        ({"pooling_mode_max_tokens": True}, "class_vector"),
        ({}, "class_vector"),
        (None, "class_vector"),
    ],
)
def test_the_head_is_what_the_weights_were_pretrained_for(tmp_path, modes, head):
    if modes is not None:
        (tmp_path / "1_Pooling").mkdir()
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(modes))
    assert pretrained_head(tmp_path) == head


def test_the_default_weights_were_pretrained_with_mean_pooling(minilm, tiny, tmp_path):
    assert build(SETTINGS, minilm, ["A", "B"]).get_pipe("trf_textcat").head == "mean"
    assert build(SETTINGS, tiny, ["A", "B"]).get_pipe("trf_textcat").head == "class_vector"
    shutil.copytree(tiny, tmp_path / "weights")
    shutil.copytree(minilm / "1_Pooling", tmp_path / "weights/1_Pooling")
    nlp = build(with_settings(head="pooler"), tmp_path / "weights", ["A", "B"])
    assert nlp.get_pipe("trf_textcat").head == "pooler"


def test_settings_reach_the_components(tiny):
    changes = {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "layer_decay": 0.5, "train_layers": 1}
    nlp = build(with_settings(**changes, label_smoothing=0.1), tiny, ["A", "B"])
    rates = nlp.get_pipe("trf_tok2vec").rates
    assert (rates.scale, rates.decay, rates.train_layers) == (pytest.approx(0.1), 0.5, 1)
    assert nlp.get_pipe("trf_textcat").label_smoothing == 0.1
    assert build(with_settings(), tiny, ["A", "B"]).get_pipe("trf_tok2vec").rates.scale == 1.0
