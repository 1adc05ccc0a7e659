import random
from types import SimpleNamespace

import pytest
import spacy

from workflow import shards
from workflow.finetune import batches, make_optimizer


def test_the_rate_rises_falls_and_is_never_zero():
    for warmup in (0, 0.1, 0.5):
        optimizer = make_optimizer(SimpleNamespace(learning_rate=1.0, warmup=warmup, weight_decay=0, grad_clip=0), 100)
        rates = []
        for _ in range(100):
            optimizer.step_schedules()
            rates.append(float(optimizer.learn_rate))
        peak = rates.index(max(rates))
        assert min(rates) > 0 and max(rates) == pytest.approx(1.0, abs=0.011) and abs(peak - 100 * warmup) <= 1
        assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_an_epoch_has_the_steps_that_are_planned_and_every_document(tmp_path):
    nlp = spacy.blank("en")
    shards.write((nlp.make_doc(str(i)) for i in range(107)), tmp_path, 10)
    settings = SimpleNamespace(shuffle_buffer=25, batch_size=8)
    epochs = [
        [[doc.text for doc in batch] for batch in batches(tmp_path, nlp, settings, random.Random(s))] for s in (0, 0, 1)
    ]
    for epoch in epochs:
        assert len(epoch) == 14 and sorted(int(t) for batch in epoch for t in batch) == list(range(107))
    assert epochs[0] == epochs[1] != epochs[2]
