"""Hidden states and attention of every layer, and attention between spaCy tokens."""

import numpy as np
import pytest
import spacy
import torch
from thinc.api import Adam

from rootstock.pieces.alignment import token_attention
from rootstock.pieces.pieces import Pieces
from tests.conftest import pipeline
from tests.rootstock.test_update import BATCHES, examples, sgd

TEXT = "The U.S. cannot wait. Silicon Valley is unbelievable!"


@pytest.fixture(scope="module")
def layers_nlp(minilm):
    return pipeline(minilm, hidden_states=True, attentions=True, words_per_batch=16)


def test_states_and_attentions_are_those_of_hugging_face(layers_nlp):
    doc = next(layers_nlp.pipe([TEXT, "Another one."]))
    pieces, net = Pieces.of(doc), layers_nlp.get_pipe("trf_tok2vec").transformer.eval()
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


def test_rows_of_token_attention_sum_to_one(layers_nlp):
    doc = layers_nlp(TEXT)
    sentences = token_attention(doc)
    assert [m.shape for m in sentences] == [(6, 12, len(s), len(s)) for s in doc.sents]
    for matrix in sentences:
        np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-4)
        assert matrix.min() >= 0


def test_token_attention_if_each_token_is_one_piece(layers_nlp):
    """Each token's query is its piece; the attention to [CLS] and [SEP] is distributed over all tokens."""
    doc = layers_nlp("it rained again")
    [piece_attention], [attention] = doc._.trf_all_attentions, token_attention(doc)
    queries = np.eye(3, 5, k=1)
    keys = queries + (np.eye(5)[[0, 0, 0]] + np.eye(5)[[4, 4, 4]]) / 3
    np.testing.assert_allclose(attention, queries @ piece_attention @ keys.T, atol=1e-5)


def test_outputs_of_a_document_with_several_windows(tiny):
    nlp = pipeline(tiny, hidden_states=True, attentions=True)
    doc = nlp(" ".join(f"w{i}" for i in range(40)))
    assert len(doc._.trf_all_attentions) == len(Pieces.of(doc).window_lengths) > 1
    assert doc._.trf_all_hidden_states.shape == (3, len(doc._.trf_word_pieces), 16)
    [matrix] = token_attention(doc)
    np.testing.assert_allclose(matrix.sum(-1), 1, atol=1e-4)
    assert nlp("")._.trf_all_attentions in (None, [])


def test_layer_mix_is_the_weighted_sum_of_all_layers(minilm):
    """Initially the mean of all layers, embeddings included. Also for a document with several windows."""
    nlp, layers = pipeline(minilm, mix_layers=True), pipeline(minilm, hidden_states=True)
    texts = [TEXT, " ".join(["word"] * 600)]
    states = [doc._.trf_all_hidden_states for doc in layers.pipe(texts)]
    for doc, each in zip(nlp.pipe(texts), states, strict=True):
        np.testing.assert_allclose(doc._.trf_last_hidden_state, each.mean(axis=0), atol=1e-4)
    mix = nlp.get_pipe("trf_tok2vec").mix
    with torch.no_grad():
        mix.weights.copy_(torch.arange(7.0))
        mix.scale.fill_(2.0)
    softmax = np.exp(np.arange(7)) / np.exp(np.arange(7)).sum()
    for doc, each in zip(nlp.pipe(texts), states, strict=True):
        np.testing.assert_allclose(doc._.trf_last_hidden_state, 2 * np.tensordot(softmax, each, 1), atol=1e-4)


@pytest.mark.parametrize("train_layers", [0, None], ids=["only the mix", "with the transformer"])
def test_layer_mix_is_trained_and_saved(tiny, tmp_path, train_layers):
    nlp = pipeline(tiny, mix_layers=True, train_layers=train_layers)
    head = nlp.add_pipe("trf_textcat")
    head.add_label("GOOD"), head.add_label("BAD")
    tok2vec = nlp.get_pipe("trf_tok2vec")
    before = {name: value.clone() for name, value in tok2vec.transformer.state_dict().items()}
    for _ in range(2):
        nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    assert tok2vec.mix.weights.abs().min() > 1e-6 and tok2vec.mix.scale != 1
    moved = [name for name, value in tok2vec.transformer.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(moved) == (train_layers is None)
    nlp.to_disk(tmp_path)
    loaded = spacy.load(tmp_path)
    assert torch.equal(loaded.get_pipe("trf_tok2vec").mix.weights, tok2vec.mix.weights)
    np.testing.assert_array_equal(loaded(TEXT).tensor, nlp(TEXT).tensor)


def test_layer_mix_steps_once_with_several_heads(tiny):
    """`spacy train` calls every component's `finish_update`; only the first call finds a gradient."""
    nlp = pipeline(tiny, mix_layers=True)
    for name in ("a", "b"):
        head = nlp.add_pipe("trf_textcat", name=name)
        head.add_label("GOOD"), head.add_label("BAD")
    optimizer = Adam(0.001)
    for step in (1, 2):
        nlp.update(examples(nlp, BATCHES[0]), sgd=False)
        for name in nlp.pipe_names[1:]:
            nlp.get_pipe(name).finish_update(optimizer)
        [shim, mix] = nlp.get_pipe("trf_tok2vec").model.shims
        assert {optimizer.nr_update[mix.id, name] for name in ("weights", "scale")} == {step}
        assert {n for (owner, _), n in optimizer.nr_update.items() if owner == shim.id} == {step}


def test_outputs_of_all_layers_are_off_by_default(nlp):
    doc = nlp(TEXT)
    assert doc._.trf_all_hidden_states is None and doc._.trf_all_attentions is None
    with pytest.raises(ValueError, match="attentions: true"):
        token_attention(doc)
