"""The last layer computed only for class pieces: gradients are the same."""

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc

from rootstock.components.pooling import POOLING
from rootstock.components.textcat import TrfTextCat
from rootstock.encoder.batch import Batch
from rootstock.encoder.kernels.attention import Group
from rootstock.pieces.pieces import Pieces
from rootstock.weights.families import FAMILIES, Family
from tests.conftest import pipeline
from tests.rootstock.test_update import BATCHES, build, examples, net_of, sgd
from tests.rootstock.weights.test_families import FAMILIES as TEST_FAMILIES
from tests.rootstock.weights.test_families import TOKENIZERS, make_weights

SUPPORTED = [name for name in TEST_FAMILIES if FAMILIES.get(name, Family()).attention_output]
LONG = [("word " * 100 + "end.", "GOOD"), ("Short. And so on.", "BAD")]  # at least three windows


@pytest.fixture(params=["concatenated", "padded"])
def layout(request, monkeypatch):
    if request.param == "padded":  # as on a GPU
        init = Batch.__init__

        def padded(self, *args):
            init(self, *args)
            self.unpadded = False

        monkeypatch.setattr(Batch, "__init__", padded)
    return request.param


def docs_after_update(nlp, batch) -> list[Doc]:
    """The documents after an update without a step; `nlp.update` does not give access to them."""
    data = examples(nlp, batch)
    for _, component in nlp.pipeline:
        component.update(data)
    return [eg.predicted for eg in data]


def gradients(nlp, batch) -> tuple[dict, list[Doc]]:
    """The gradients of the transformer's parameters, and the documents."""
    docs = docs_after_update(nlp, batch)
    grads = {name: p.grad for name, p in net_of(nlp).named_parameters() if p.grad is not None}
    return {name: (grad.to_dense() if grad.is_sparse else grad).numpy() for name, grad in grads.items()}, docs


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason=f"no tokenizers in {TOKENIZERS}")
@pytest.mark.parametrize("family", SUPPORTED)
def test_gradients_are_the_same_for_every_family(family, layout, tmp_path, monkeypatch):
    weights = make_weights(family, tmp_path)
    for batch in (BATCHES[0], LONG):
        with monkeypatch.context() as patch:
            patch.setattr(TrfTextCat, "reads_only_class_pieces", False)
            whole, docs = gradients(build(weights), batch)
            assert all(len(doc.tensor) == len(doc) for doc in docs)
        part, docs = gradients(build(weights), batch)
        assert part.keys() == whole.keys()
        for name, gradient in part.items():
            np.testing.assert_allclose(gradient, whole[name], atol=1e-5, err_msg=name)
        for doc in docs:
            assert len(doc._.trf_class_states) == len(Pieces.of(doc).window_lengths)
            assert (
                not len(doc.tensor) and doc._.trf_last_hidden_state is None and not doc._.trf_outputs.last_hidden_state
            )


@pytest.mark.parametrize("head", ["class_vector", "pooler"])
def test_gradients_are_the_same_with_recomputed_packs(tiny, head, layout, monkeypatch):
    batch = LONG + BATCHES[0]
    with monkeypatch.context() as patch:
        patch.setattr(TrfTextCat, "reads_only_class_pieces", False)
        whole, _ = gradients(build(tiny, head=head), batch)
    part, _ = gradients(build(tiny, head=head, words_per_batch=32), batch)
    for name, gradient in part.items():
        np.testing.assert_allclose(gradient, whole[name], atol=1e-5, err_msg=name)


def n_rows_of_the_last_layer(nlp, **update) -> int:
    """How many go through the feed-forward part of the last layer in one update."""
    seen = []
    last = net_of(nlp).encoder.layer[-1].intermediate
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    nlp.update(examples(nlp, BATCHES[0]), **update)
    handle.remove()
    assert len(seen) == 1
    return seen[0]


def test_last_layer_computes_only_class_pieces(tiny):
    nlp = build(tiny)
    docs = list(pipeline(tiny).pipe(text for text, _ in BATCHES[0]))
    n_pieces = sum(len(Pieces.of(doc).ids) for doc in docs)
    n_sentences = sum(Pieces.of(doc).n_sentences for doc in docs)
    n_rows = 1 << (n_sentences - 1).bit_length()  # padded to a power of two
    assert n_sentences <= n_rows < n_pieces
    assert n_rows_of_the_last_layer(nlp) == n_rows
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {"@architectures": "rootstock.TransformerListener.v1"}}})
    nlp.get_pipe("tagger").add_label("X")
    # The tagger reads every token, even if it is excluded from this update: it may annotate.
    assert n_rows_of_the_last_layer(nlp, exclude=["tagger"]) == n_pieces
    nlp.remove_pipe("tagger")
    assert n_rows_of_the_last_layer(nlp) == n_rows


def test_queries_of_the_last_layer_are_only_class_pieces(tiny, monkeypatch):
    n_queries, weights = [], Group.weights

    def record_queries(group, query, key):
        n_queries.append(group.queries.length)
        return weights(group, query, key)

    monkeypatch.setattr(Group, "weights", record_queries)
    nlp = build(tiny)
    nlp.update(examples(nlp, [("A sentence of some pieces", "GOOD")]))
    n_layers = net_of(nlp).config.num_hidden_layers
    assert len(n_queries) % n_layers == 0
    n_calls = len(n_queries) // n_layers  # per layer
    assert set(n_queries[-n_calls:]) == {1} and max(n_queries[:n_calls]) > 1
    assert n_queries[:-n_calls] == n_queries[:n_calls] * (n_layers - 1)


@pytest.mark.parametrize("head", ["mean", "last_hidden"])
def test_heads_that_read_all_pieces_get_all(tiny, head):
    nlp = build(tiny, head=head)
    for doc in docs_after_update(nlp, BATCHES[0]):
        assert np.isfinite(doc._.trf_last_hidden_state).all() and len(doc.tensor) == len(doc)


@pytest.mark.parametrize("config", [{"mix_layers": True}, {"hidden_states": True}, {"attentions": True}])
def test_outputs_of_every_layer_have_all_rows(tiny, config):
    nlp = build(tiny, **config)
    for doc in docs_after_update(nlp, BATCHES[0]):
        assert np.isfinite(doc._.trf_last_hidden_state).all() and len(doc.tensor) == len(doc)


def test_predictions_have_all_rows_after_training(tiny):
    nlp = build(tiny)
    expected = nlp("Two. Sentences.").tensor
    docs_after_update(nlp, BATCHES[0])
    np.testing.assert_array_equal(nlp("Two. Sentences.").tensor, expected)


def test_updates_are_the_same_with_annotates(tiny):
    plain, annotating = build(tiny), build(tiny)
    for batch in (BATCHES[0], LONG):
        plain.update(examples(plain, batch), sgd=sgd())
        annotating.update(examples(annotating, batch), sgd=sgd(), annotates=["trf_tok2vec"])
    others = dict(net_of(annotating).named_parameters())
    for name, parameter in net_of(plain).named_parameters():
        np.testing.assert_allclose(others[name].detach(), parameter.detach(), atol=1e-5, err_msg=name)


def test_reading_other_pieces_raises_without_annotates(tiny):
    rows = []
    Language.component("reader", func=lambda doc: rows.append(POOLING["mean"](doc)[0]) or doc)
    nlp = build(tiny)
    nlp.add_pipe("reader")
    with pytest.raises(ValueError, match=r"annotates=\['trf_tok2vec'\]"):
        nlp.update(examples(nlp, BATCHES[0]), annotates=["reader"])
    nlp.update(examples(nlp, BATCHES[0]), annotates=["trf_tok2vec", "reader"])
    assert len(rows) == len(BATCHES[0])
