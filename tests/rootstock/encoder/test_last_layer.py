"""What a head does not read of the last layer is not computed; what it learns stays the same."""

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc

from rootstock.components.pooling import POOLING
from rootstock.components.textcat import TrfTextCat
from rootstock.encoder.batch import Batch
from rootstock.encoder.kernels.attention import Run
from rootstock.pieces.pieces import Pieces
from rootstock.weights.families import FAMILIES, Family
from tests.conftest import pipeline
from tests.rootstock.test_update import BATCHES, build, examples, net_of, sgd
from tests.rootstock.weights.test_families import FAMILIES as MADE
from tests.rootstock.weights.test_families import TOKENIZERS, make_weights

KNOWN = [name for name in MADE if FAMILIES.get(name, Family()).after_attention]
LONG = [("word " * 100 + "end.", "GOOD"), ("Short. And so on.", "BAD")]  # three windows and more


@pytest.fixture(params=["end to end", "padded"])
def layout(request, monkeypatch):
    if request.param == "padded":  # as on a GPU
        init = Batch.__init__

        def padded(self, *args):
            init(self, *args)
            self.unpadded = False

        monkeypatch.setattr(Batch, "__init__", padded)
    return request.param


def updated(nlp, batch) -> list[Doc]:
    """As `nlp.update` without a step, which hides its documents."""
    given = examples(nlp, batch)
    for _, component in nlp.pipeline:
        component.update(given)
    return [eg.predicted for eg in given]


def gradients(nlp, batch) -> tuple[dict, list[Doc]]:
    """Of the transformer's weights, and the documents from which they come."""
    docs = updated(nlp, batch)
    found = {name: p.grad for name, p in net_of(nlp).named_parameters() if p.grad is not None}
    found = {name: (grad.to_dense() if grad.is_sparse else grad).numpy() for name, grad in found.items()}
    return found, docs


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason=f"the real tokenizers are not at hand in {TOKENIZERS}")
@pytest.mark.parametrize("family", KNOWN)
def test_gradients_of_every_family(family, layout, tmp_path, monkeypatch):
    weights = make_weights(family, tmp_path)
    for batch in (BATCHES[0], LONG):
        with monkeypatch.context() as patch:
            patch.setattr(TrfTextCat, "reads_class_pieces_alone", False)
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
def test_packs_that_are_computed_again(tiny, head, layout, monkeypatch):
    batch = LONG + BATCHES[0]
    with monkeypatch.context() as patch:
        patch.setattr(TrfTextCat, "reads_class_pieces_alone", False)
        whole, _ = gradients(build(tiny, head=head), batch)
    part, _ = gradients(build(tiny, head=head, words_per_batch=32), batch)
    for name, gradient in part.items():
        np.testing.assert_allclose(gradient, whole[name], atol=1e-5, err_msg=name)


def rows_of_the_last_layer(nlp, **update) -> int:
    """How many go through the feed-forward part of the last layer in one update."""
    seen = []
    last = net_of(nlp).encoder.layer[-1].intermediate
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel()))
    nlp.update(examples(nlp, BATCHES[0]), **update)
    handle.remove()
    assert len(seen) == 1
    return seen[0]


def test_only_rows_that_are_read_are_computed(tiny):
    nlp = build(tiny)
    docs = list(pipeline(tiny).pipe(text for text, _ in BATCHES[0]))
    n_pieces = sum(len(Pieces.of(doc).ids) for doc in docs)
    n_sentences = sum(Pieces.of(doc).n_sentences for doc in docs)
    n_rows = 1 << (n_sentences - 1).bit_length()  # numbers that recur
    assert n_sentences <= n_rows < n_pieces
    assert rows_of_the_last_layer(nlp) == n_rows
    nlp.add_pipe("tagger", config={"model": {"tok2vec": {"@architectures": "rootstock.TransformerListener.v1"}}})
    nlp.get_pipe("tagger").add_label("X")
    # A component reads every token, be it excluded from this update or not: another may annotate by it.
    assert rows_of_the_last_layer(nlp, exclude=["tagger"]) == n_pieces
    nlp.remove_pipe("tagger")
    assert rows_of_the_last_layer(nlp) == n_rows


def test_in_the_last_layer_class_pieces_alone_look_at_others(tiny, monkeypatch):
    asking, weights = [], Run.weights

    def seen(run, query, key):
        asking.append(run.asking.length)
        return weights(run, query, key)

    monkeypatch.setattr(Run, "weights", seen)
    nlp = build(tiny)
    nlp.update(examples(nlp, [("A sentence of some pieces", "GOOD")]))
    n_layers = net_of(nlp).config.num_hidden_layers
    assert len(asking) % n_layers == 0
    last = len(asking) // n_layers  # calls of a layer
    assert set(asking[-last:]) == {1} and max(asking[:last]) > 1
    assert asking[:-last] == asking[:last] * (n_layers - 1)


@pytest.mark.parametrize("head", ["mean", "last_hidden"])
def test_heads_that_read_all_get_all(tiny, head):
    nlp = build(tiny, head=head)
    for doc in updated(nlp, BATCHES[0]):
        assert np.isfinite(doc._.trf_last_hidden_state).all() and len(doc.tensor) == len(doc)


@pytest.mark.parametrize("config", [{"mix_layers": True}, {"hidden_states": True}, {"attentions": True}])
def test_whoever_asks_for_every_layer_gets_all_rows(tiny, config):
    nlp = build(tiny, **config)
    for doc in updated(nlp, BATCHES[0]):
        assert np.isfinite(doc._.trf_last_hidden_state).all() and len(doc.tensor) == len(doc)


def test_predictions_stay_whole(tiny):
    nlp = build(tiny)
    expected = nlp("Two. Sentences.").tensor
    updated(nlp, BATCHES[0])
    np.testing.assert_array_equal(nlp("Two. Sentences.").tensor, expected)


def test_a_transformer_that_annotates_in_between_learns_the_same(tiny):
    plain, annotating = build(tiny), build(tiny)
    for batch in (BATCHES[0], LONG):
        plain.update(examples(plain, batch), sgd=sgd())
        annotating.update(examples(annotating, batch), sgd=sgd(), annotates=["trf_tok2vec"])
    moved = dict(net_of(annotating).named_parameters())
    for name, parameter in net_of(plain).named_parameters():
        np.testing.assert_allclose(moved[name].detach(), parameter.detach(), atol=1e-5, err_msg=name)


def test_who_reads_more_is_told_how(tiny):
    seen = []
    Language.component("reader", func=lambda doc: seen.append(POOLING["mean"](doc)[0]) or doc)
    nlp = build(tiny)
    nlp.add_pipe("reader")
    with pytest.raises(ValueError, match=r"annotates=\['trf_tok2vec'\]"):
        nlp.update(examples(nlp, BATCHES[0]), annotates=["reader"])
    nlp.update(examples(nlp, BATCHES[0]), annotates=["trf_tok2vec", "reader"])
    assert len(seen) == len(BATCHES[0])
