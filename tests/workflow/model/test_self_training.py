"""A student with a transformer."""

import numpy as np
import pytest
import spacy

from workflow.engine import params
from workflow.model import self_training
from workflow.model.pipeline import build

TEXTS = ["one two", "three four", "five six"]


def changed(**finetune):
    loaded = params.load()
    return loaded.model_copy(update={"finetune": loaded.finetune.model_copy(update=finetune)})


def test_a_student_replaces_settings_of_finetune():
    loaded = params.load()
    students = {"again": {"architecture": "transformer", "epochs": 2}}
    loaded = loaded.model_copy(update={"distill": loaded.distill.model_copy(update={"students": students})})
    found = self_training.settings(loaded, "again")
    assert found.epochs == 2 != loaded.finetune.epochs
    assert found.learning_rate == loaded.finetune.learning_rate and found.contrastive is False


@pytest.mark.parametrize("exclusive", [True, False])
def test_it_learns_probabilities(tiny, exclusive):
    """Its predictions come near to targets between 0 and 1; an unknown label teaches nothing."""
    settings = changed(
        epochs=120, learning_rate=1e-2, head="mean", dropout=0.0, weight_decay=0.0, batch_size=2, contrastive=False
    )
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"exclusive": exclusive})})
    spacy.util.fix_random_seed(0)
    nlp = build(settings, tiny, ["A", "B"])
    targets = np.array([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]], "float32")
    if not exclusive:
        targets[2] = [0.9, np.nan]
    losses = list(self_training.learn(nlp, list(nlp.tokenizer.pipe(TEXTS)), targets, settings.finetune, 0))
    found = np.array([[doc.cats["A"], doc.cats["B"]] for doc in nlp.pipe(TEXTS)])
    assert len(losses) == 120 and losses[-1] < losses[0]
    assert np.nanmax(np.abs(found - targets)) < 0.1


def test_the_documents_keep_nothing_of_what_is_computed(tiny):
    """Else memory would grow with the text."""
    settings = changed(epochs=1, batch_size=2, contrastive=False)
    nlp = build(settings, tiny, ["A", "B"])
    docs = list(nlp.tokenizer.pipe(TEXTS))
    list(self_training.learn(nlp, docs, np.full((3, 2), 0.5), settings.finetune, 0))
    assert not any(doc.user_data or len(doc.tensor) for doc in docs)
