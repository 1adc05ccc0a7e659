"""Copies of a Doc, and of a pipeline: deepcopy, pickle, joblib, and processes that are not forked."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import spacy

from tests.conftest import ROOT, pipeline
from tests.rootstock.components.test_listener import build as build_listening
from tests.rootstock.test_update import build

pytestmark = pytest.mark.filterwarnings("ignore:.*W109")  # spaCy: hooks are not serialized
TEXT = "Unbelievable U.S. cannot."


def test_a_copied_doc_has_all_attributes(tiny_nlp):
    doc = tiny_nlp(TEXT)
    other = copy.deepcopy(doc)
    np.testing.assert_array_equal(other.tensor, doc.tensor)
    np.testing.assert_array_equal(other[1].vector, doc[1].vector)
    for name in ("trf_word_pieces_", "trf_alignment"):
        assert getattr(other._, name) == getattr(doc._, name)
        assert getattr(other[1:3]._, name) == getattr(doc[1:3]._, name)
        assert getattr(other[1]._, name) == getattr(doc[1]._, name)
    for name in ("trf_word_pieces", "trf_last_hidden_state"):
        np.testing.assert_array_equal(getattr(other[1:3]._, name), getattr(doc[1:3]._, name))


def test_a_pickled_doc_goes_without_the_tokenizer(tiny_nlp):
    doc = tiny_nlp(TEXT)
    data, expected, n_bytes = pickle.dumps(doc), doc.tensor, len(pickle.dumps(doc.vocab))
    assert len(data) < n_bytes + 20_000
    del doc  # as in another process
    other = pickle.loads(data)
    np.testing.assert_array_equal(other.tensor, expected)
    with pytest.raises(ValueError, match="no strings of its pieces"):
        other._.trf_word_pieces_  # noqa: B018
    assert tiny_nlp.get_pipe("trf_wordpiecer")(other)._.trf_word_pieces_[0] == "[CLS]"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda nlp: pickle.loads(pickle.dumps(nlp))], ids=["copy", "pickle"])
def test_a_copied_pipeline_predicts_the_same(tiny, copied):
    for nlp in (build(tiny), build_listening(tiny, ["tagger"])[0]):
        other = copied(nlp)
        one, two = nlp(TEXT), other(TEXT)
        assert one.cats == two.cats and [t.tag_ for t in one] == [t.tag_ for t in two]
        assert two._.trf_word_pieces_ == one._.trf_word_pieces_
        assert other.get_pipe("trf_wordpiecer").nlp() is other


def test_a_sourced_component_outlives_its_pipeline(tiny):
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", source=pipeline(tiny))
    assert pickle.loads(pickle.dumps(nlp))(TEXT)._.trf_word_pieces_[0] == "[CLS]"


PROCESSES = """
import multiprocessing, sys, warnings
import numpy as np, spacy

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    multiprocessing.set_start_method(sys.argv[2])
    nlp = spacy.load(sys.argv[1])
    texts = [f"Text {i}. On and on." for i in range(12)]
    for one, two in zip(nlp.pipe(texts), nlp.pipe(texts, n_process=2, batch_size=3), strict=True):
        np.testing.assert_allclose(one.tensor, two.tensor, atol=1e-5)
        assert one._.trf_alignment == two._.trf_alignment and [t.tag_ for t in one] == [t.tag_ for t in two]
        assert abs(one.cats["GOOD"] - two.cats["GOOD"]) < 1e-5
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_not_forked(tiny, tmp_path, method):
    nlp, _ = build_listening(tiny, ["tagger"])
    head = nlp.add_pipe("trf_textcat")
    head.add_label("GOOD"), head.add_label("BAD")
    nlp.to_disk(tmp_path / "pipeline")
    (tmp_path / "script.py").write_text(PROCESSES)  # children import it
    command = [sys.executable, tmp_path / "script.py", tmp_path / "pipeline", method]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
