"""Releasing the transformer's outputs, and memory in a long `nlp.pipe`."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, pipeline

TEXTS = [f"Text number {i}. It goes on and on." for i in range(20)]


def build(tiny, activations=None):
    nlp = pipeline(tiny, hidden_states=True, attentions=True)
    head = nlp.add_pipe("trf_textcat")
    head.add_label("A"), head.add_label("B")
    if activations:
        nlp.add_pipe("trf_release", config={"activations": activations})
    return nlp


def test_outputs_are_kept_by_default(tiny):
    doc = build(tiny)(TEXTS[0])
    assert doc.tensor.size and doc._.trf_last_hidden_state.size and doc._.trf_all_attentions


@pytest.mark.filterwarnings("ignore:.*W109")  # spaCy: hooks are not serialized
def test_drop_removes_outputs_and_vectors(tiny):
    unreleased, dropped = build(tiny), build(tiny, "drop")
    for doc, other in zip(unreleased.pipe(TEXTS), dropped.pipe(TEXTS), strict=True):
        assert other.cats == doc.cats
        assert other.tensor.shape == (0, 16) and not other.has_vector
        assert other._.trf_last_hidden_state is None and other._.trf_all_attentions is None
        assert len(other.to_bytes()) < len(doc.to_bytes()) / 2


def test_cpu_moves_outputs_to_numpy(tiny):
    """Without a GPU the outputs are NumPy arrays already, and do not change."""
    unreleased, moved = build(tiny), build(tiny, "cpu")
    for doc, other in zip(unreleased.pipe(TEXTS), moved.pipe(TEXTS), strict=True):
        arrays = [
            other.tensor,
            other._.trf_last_hidden_state,
            other._.trf_all_hidden_states,
            *other._.trf_all_attentions,
        ]
        assert all(isinstance(array, np.ndarray) for array in arrays)
        np.testing.assert_array_equal(other.tensor, doc.tensor)
        assert other[0].similarity(other[1]) == pytest.approx(doc[0].similarity(doc[1]))


def test_training_skips_the_component(tiny):
    from tests.rootstock.test_update import BATCHES, examples, sgd

    nlp = build(tiny, "drop")
    data = examples(nlp, [(text, {"GOOD": "A", "BAD": "B"}[label]) for text, label in BATCHES[0]])
    assert nlp.update(data, sgd=sgd(), losses={})["trf_textcat"] >= 0


MEMORY = """
import itertools, resource, sys
import spacy

nlp = spacy.load(sys.argv[1])
texts = itertools.cycle([f"Text number {i}. " + "It goes on. " * (i % 10) for i in range(97)])

def peak(n):
    for doc in nlp.pipe(itertools.islice(texts, n)):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

warm = peak(3000)  # warm-up: the allocator's blocks are reused afterwards
print(peak(6000) / warm)
"""


@pytest.mark.slow
def test_memory_is_constant_in_a_long_pipe(tiny, tmp_path):
    """Keeping the outputs of 6,000 documents would take 60 MB."""
    pipeline(tiny, hidden_states=True).to_disk(tmp_path)
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.05
