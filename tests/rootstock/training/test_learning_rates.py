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


def test_rates_depend_on_depth():
    rates = LearningRates(scale=0.5, decay=0.1).of(BERT)
    assert list(rates.values()) == pytest.approx([0.0005, 0.0005, 0.005, 0.05, 0.5])
    assert list(LearningRates(train_layers=1).of(BERT).values()) == [0, 0, 0, 1, 1]
    assert list(LearningRates(train_layers=2).of(BERT).values()) == [0, 0, 1, 1, 1]
    assert set(LearningRates().of(BERT).values()) == {1.0} and set(LearningRates(train_layers=0).of(BERT).values()) == {
        0.0
    }


@pytest.mark.parametrize(
    ("name", "is_embedding"),
    [("wte.weight", True), ("word_embedding.weight", True), ("ln_f.weight", False), ("h.0.mlp.c_fc.bias", False)],
)
def test_depth_of_other_families_parameters(name, is_embedding):
    rates = LearningRates(decay=0.5).of([name, "h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"])
    assert (rates[name] == 0.125) == is_embedding


@pytest.mark.parametrize(
    "config", [{}, {"learning_rate_scale": 0.5}, {"layer_decay": 0.5}, {"train_layers": 1}, {"train_layers": 0}]
)
def test_steps_are_scaled_by_the_rates(tiny, config):
    """Compared with a step at the full rate, each parameter's change is multiplied; frozen ones do not change."""
    changes = []
    for settings in ({}, config):
        nlp = build(tiny, **settings)
        before = copy.deepcopy(net_of(nlp).state_dict())
        nlp.update(examples(nlp, BATCHES[0]), sgd=SGD(0.5, L2=0, grad_clip=0, use_averages=False))
        changes.append({name: value - before[name] for name, value in net_of(nlp).named_parameters()})
    rates = LearningRates(
        config.get("train_layers"), config.get("learning_rate_scale", 1.0), config.get("layer_decay", 1.0)
    ).of(list(changes[0]))
    for name, full in changes[0].items():
        assert torch.allclose(changes[1][name], full * rates[name], atol=1e-6), name
