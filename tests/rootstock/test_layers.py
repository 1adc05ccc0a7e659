"""Every layer's states and attention, and attention between spaCy's tokens."""

import numpy as np
import pytest
import torch

from rootstock.alignment import token_attention
from rootstock.pieces import Pieces

from ..conftest import pipeline

TEXT = "The U.S. cannot wait. Silicon Valley is unbelievable!"


@pytest.fixture(scope="module")
def layered(minilm):
    return pipeline(minilm, hidden_states=True, attentions=True, words_per_batch=16)


def test_states_and_attentions_are_those_of_hugging_face(layered):
    doc = next(layered.pipe([TEXT, "Another one."]))
    pieces, net = Pieces.of(doc), layered.get_pipe("trf_tok2vec").transformer.eval()
    start = 0
    for i, n in enumerate(pieces.sentence_pieces):
        ids = torch.from_numpy(pieces.ids[start : start + n]).long()[None]
        with torch.no_grad():
            output = net(ids, output_hidden_states=True, output_attentions=True)
        states = torch.cat(output.hidden_states).numpy()
        np.testing.assert_allclose(doc._.trf_all_hidden_states[:, start : start + n], states, atol=1e-4)
        np.testing.assert_allclose(doc._.trf_all_attentions[i], torch.cat(output.attentions).numpy(), atol=1e-5)
        start += n
    np.testing.assert_allclose(doc._.trf_all_hidden_states[-1], doc._.trf_last_hidden_state, atol=1e-5)
    assert doc._.trf_outputs.hidden_states is doc._.trf_all_hidden_states


def test_attention_between_tokens(layered):
    doc = layered(TEXT)
    sentences = token_attention(doc)
    assert [m.shape for m in sentences] == [(6, 12, len(s), len(s)) for s in doc.sents]
    for matrix in sentences:
        np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-4)
        assert matrix.min() >= 0


def test_where_tokens_are_pieces_only_the_boundaries_are_shared(layered):
    """One piece a token: a token looks where its piece does; what [CLS] and [SEP] are given is shared by all."""
    doc = layered("it rained again")
    [piece], [token] = doc._.trf_all_attentions, token_attention(doc)
    own = np.eye(3, 5, k=1)
    share = own + (np.eye(5)[[0, 0, 0]] + np.eye(5)[[4, 4, 4]]) / 3
    np.testing.assert_allclose(token, own @ piece @ share.T, atol=1e-5)


def test_windows(tiny):
    nlp = pipeline(tiny, hidden_states=True, attentions=True)
    doc = nlp(" ".join(f"w{i}" for i in range(40)))
    assert len(doc._.trf_all_attentions) == len(Pieces.of(doc).window_lengths) > 1
    assert doc._.trf_all_hidden_states.shape == (3, len(doc._.trf_word_pieces), 16)
    [matrix] = token_attention(doc)
    np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-4)
    assert nlp("")._.trf_all_attentions in (None, [])


def test_off_unless_asked_for(nlp):
    doc = nlp(TEXT)
    assert doc._.trf_all_hidden_states is None and doc._.trf_all_attentions is None
    with pytest.raises(ValueError, match="attentions: true"):
        token_attention(doc)
