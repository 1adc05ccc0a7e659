import copy

import pytest
import torch
from thinc.api import SGD

from rootstock.training.learning_rates import LearningRates
from tests.rootstock.test_update import BATCHES, build, examples, net_of

BERT = [
    "embeddings.word_embeddings.weight",
    "embeddings.LayerNorm.bias",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.1.output.dense.bias",
    "pooler.dense.weight",
]


def test_depth_decides():
    rates = LearningRates(scale=0.5, decay=0.1).of(BERT)
    assert list(rates.values()) == pytest.approx([0.0005, 0.0005, 0.005, 0.05, 0.5])
    assert list(LearningRates(train_layers=1).of(BERT).values()) == [0, 0, 0, 1, 1]
    assert list(LearningRates(train_layers=2).of(BERT).values()) == [0, 0, 1, 1, 1]
    assert set(LearningRates().of(BERT).values()) == {1.0} and set(LearningRates(train_layers=0).of(BERT).values()) == {
        0.0
    }


@pytest.mark.parametrize(
    ("name", "bottom"),
    [("wte.weight", True), ("word_embedding.weight", True), ("ln_f.weight", False), ("h.0.mlp.c_fc.bias", False)],
)
def test_names_of_other_families(name, bottom):
    rates = LearningRates(decay=0.5).of([name, "h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"])
    assert (rates[name] == 0.125) == bottom


@pytest.mark.parametrize(
    "config", [{}, {"learning_rate_scale": 0.5}, {"layer_decay": 0.5}, {"train_layers": 1}, {"train_layers": 0}]
)
def test_steps_are_scaled(tiny, config):
    """Against a step at the full rate: each weight moves by its multiple of that, frozen ones not at all."""
    moved = []
    for settings in ({}, config):
        nlp = build(tiny, **settings)
        before = copy.deepcopy(net_of(nlp).state_dict())
        nlp.update(examples(nlp, BATCHES[0]), sgd=SGD(0.5, L2=0, grad_clip=0, use_averages=False))
        moved.append({name: value - before[name] for name, value in net_of(nlp).named_parameters()})
    rates = LearningRates(
        config.get("train_layers"), config.get("learning_rate_scale", 1.0), config.get("layer_decay", 1.0)
    ).of(list(moved[0]))
    for name, full in moved[0].items():
        assert torch.allclose(moved[1][name], full * rates[name], atol=1e-6), name
