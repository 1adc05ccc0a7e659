import numpy as np
import pytest
import spacy
import torch
from spacy.training import Example
from thinc.api import Adam, warmup_linear

from rootstock.training import state
from tests.conftest import pipeline

TEXTS = [("A short film.", "good"), ("Another one, and longer.", "bad"), ("Nothing.", "good"), ("No. Never!", "bad")]
SETTINGS = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "frozen": {"trainable": False},
    "a mix of layers": {"mix_layers": True},
}


def training(tiny, **settings):
    spacy.util.fix_random_seed(0)
    nlp = pipeline(tiny, **settings)
    textcat = nlp.add_pipe("trf_textcat")
    for label in ("good", "bad"):
        textcat.add_label(label)
    return nlp, Adam(warmup_linear(0.01, 2, 8), L2=0.01, use_averages=False)


def steps(nlp, optimizer, numbers):
    for number in numbers:
        optimizer.step_schedules()
        text, label = TEXTS[number % len(TEXTS)]
        example = Example.from_dict(nlp.make_doc(text), {"cats": {"good": label == "good", "bad": label == "bad"}})
        nlp.update([example], drop=0.2, sgd=optimizer)


def files(nlp, folder):
    nlp.to_disk(folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_training_that_continues_gives_the_same_bytes(settings, tiny, tmp_path):
    nlp, optimizer = training(tiny, **settings)
    steps(nlp, optimizer, range(3))
    (tmp_path / "state").mkdir()
    state.save(tmp_path / "state", nlp, optimizer)
    saved = state.random_states()
    steps(nlp, optimizer, range(3, 6))
    expected = files(nlp, tmp_path / "undisturbed")

    nlp, optimizer = training(tiny, **settings)
    for _ in range(3):
        optimizer.step_schedules()
    torch.rand(5), np.random.rand(5)
    state.load(tmp_path / "state", nlp, optimizer)
    state.set_random_states(saved)
    steps(nlp, optimizer, range(3, 6))
    assert files(nlp, tmp_path / "continued") == expected
    assert files(training(tiny, **settings)[0], tmp_path / "untrained") != expected


def test_the_loss_scale_of_fp16_continues(tiny, tmp_path):
    nlp, optimizer = training(tiny, precision="fp16")
    nlp.get_pipe("trf_tok2vec").model.attrs["loss_scale"].value = 8.0
    state.save(tmp_path, nlp, optimizer)
    other, optimizer = training(tiny, precision="fp16")
    state.load(tmp_path, other, optimizer)
    assert other.get_pipe("trf_tok2vec").model.attrs["loss_scale"].value == 8.0


def test_the_state_of_another_pipeline_is_refused(tiny, tmp_path):
    nlp, optimizer = training(tiny)
    state.save(tmp_path, nlp, optimizer)
    nlp.get_pipe("trf_textcat").add_label("new")
    with pytest.raises(ValueError, match="of a pipeline with other components or weights"):
        state.load(tmp_path, nlp, optimizer)


def test_random_states_are_restored():
    saved = state.random_states()
    first = torch.rand(3).tolist(), np.random.rand(3).tolist()
    state.set_random_states(saved)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == first
