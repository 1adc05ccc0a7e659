"""Gradients against finite differences in float64, for every head, doc.tensor, windows and the mix of layers."""

from functools import partial

import numpy as np
import pytest
import torch
from spacy.training import Example
from thinc.api import Ops

from rootstock.components.contrast import contrast
from rootstock.components.pooling import POOLING
from rootstock.pieces.alignment import add_tensor_gradient
from rootstock.pieces.pieces import Pieces
from tests.conftest import pipeline

LONG = " ".join(f"w{i}" for i in range(40))  # several windows
TEXTS = ["I like it. A lot.", "No, not at all 😀.", LONG]
STEP = 1e-6


class Float64Ops(Ops):
    """Thinc's plain NumPy operations in float64; its optimized ones support only float32."""

    xp = np

    def alloc(self, shape, *, dtype="float64", zeros=True):
        return np.zeros(shape, "float64" if dtype == "float32" else dtype)


def in_float64(nlp):
    nlp.get_pipe("trf_tok2vec").transformer.double()
    if nlp.get_pipe("trf_tok2vec").mix is not None:
        nlp.get_pipe("trf_tok2vec").mix.double()
    for name in nlp.pipe_names[2:]:
        head = nlp.get_pipe(name)
        for node in head.model.walk():
            node._to_ops(Float64Ops())
            for param in node.param_names:
                node.set_param(param, node.get_param(param).astype("float64"))
            for shim in node.shims:
                shim._model.double()
    return nlp


def parameters_of(nlp) -> list:
    """Name, array and gradient getter of every parameter."""
    tok2vec = nlp.get_pipe("trf_tok2vec")
    modules = [m for m in (tok2vec.transformer, tok2vec.mix) if m is not None]
    parameters = [
        (name, p.data.numpy(), lambda p=p: p.grad.to_dense().numpy())
        for module in modules
        for name, p in module.named_parameters()
        if p.requires_grad
    ]
    for name in nlp.pipe_names[2:]:
        head = nlp.get_pipe(name)
        parameters += [(k, head.linear.get_param(k), partial(head.linear.get_grad, k)) for k in ("W", "b")]
        if head.hidden is not None:
            named = head.hidden.shims[0]._model.named_parameters()
            parameters += [(k, p.data.numpy(), lambda p=p: p.grad.to_dense().numpy()) for k, p in named]
    return parameters


def check_gradients(nlp, loss, backward) -> None:
    """Compare gradients with the slope along a random direction, for all parameters and for single ones."""
    loss()
    backward()
    arrays = [(name, value, gradient()) for name, value, gradient in parameters_of(nlp) if _has_gradient(gradient)]
    rng = np.random.default_rng(0)
    directions = [rng.normal(size=value.shape) for _, value, _ in arrays]
    assert sum(abs(g).sum() for name, _, g in arrays if "." in name) > 0, "the transformer's own"
    expected = sum((g * d).sum() for (_, _, g), d in zip(arrays, directions, strict=True))
    assert _slope(loss, [v for _, v, _ in arrays], directions) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    for (name, value, gradient), direction in list(zip(arrays, directions, strict=True))[::3]:
        slope = _slope(loss, [value], [direction])
        assert slope == pytest.approx((gradient * direction).sum(), rel=1e-4, abs=1e-7), name


def _has_gradient(gradient) -> bool:
    try:
        return gradient() is not None
    except (AttributeError, KeyError):  # an unused pooler has no gradient, nor has an output layer that does not learn
        return False


def _slope(loss, arrays, directions) -> float:
    values = []
    for sign in (1, -1):
        for array, direction in zip(arrays, directions, strict=True):
            array += sign * STEP * direction
        values.append(loss())
        for array, direction in zip(arrays, directions, strict=True):
            array -= sign * STEP * direction
    return (values[0] - values[1]) / (2 * STEP)


@pytest.mark.parametrize("mix", [False, True], ids=["last layer", "mix"])
@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "multi-label"])
@pytest.mark.parametrize("head", [*POOLING, "native"])
def test_gradients_of_every_head(tiny, head, exclusive, mix):
    nlp = pipeline(tiny, mix_layers=mix)
    textcat = nlp.add_pipe("trf_textcat", config={"head": head, "exclusive_classes": exclusive})
    for label in ("GOOD", "BAD", "SO SO"):
        textcat.add_label(label)
    in_float64(nlp)
    check_head(nlp)


@pytest.mark.parametrize("head", ["class_vector", "pooler", "mean"])
def test_gradients_of_the_contrastive_loss(tiny, head):
    nlp = pipeline(tiny)
    textcat = nlp.add_pipe("trf_textcat", config={"head": head})
    for label in ("GOOD", "BAD", "SO SO"):
        textcat.add_label(label)
    in_float64(nlp)
    textcat.contrastive = True

    def loss(examples: list[Example], docs: list) -> float:
        vectors = np.stack([POOLING[head](doc)[0].mean(axis=0) for doc in docs])
        return contrast(vectors, np.eye(len(docs)))[0]

    check_head(nlp, loss=loss)


def check_head(nlp, needs_windows=True, loss=None):
    wordpiecer, tok2vec, textcat = (component for _, component in nlp.pipeline)
    docs = [wordpiecer(nlp.make_doc(text)) for text in TEXTS]
    examples = [
        Example.from_dict(doc, {"cats": {label: float(i == j) for j, label in enumerate(textcat.labels)}})
        for i, doc in enumerate(docs)
    ]
    for example, doc in zip(examples, docs, strict=True):
        example.predicted = doc
    assert not needs_windows or Pieces.of(docs[2]).window_lengths.size > 1

    def value() -> float:
        copies = [doc.copy() for doc in docs]
        tok2vec.set_annotations(copies, tok2vec.predict([*copies]))
        if loss is not None:
            return loss(examples, copies)
        return textcat.get_loss(examples, textcat.predict(copies))[0]

    def backward() -> None:
        tok2vec.update(examples)
        states = docs[0]._.trf_last_hidden_state
        assert (docs[0]._.trf_class_states if states is None else states).dtype == "float64"
        textcat.learn(docs, examples, 0.0)
        tok2vec.backward.head_updated(textcat)

    check_gradients(nlp, value, backward)


@pytest.mark.parametrize("mix", [False, True], ids=["last layer", "mix"])
@pytest.mark.parametrize("budget", [3000, 40], ids=["one pack", "many packs"])
def test_gradients_of_doc_tensor(tiny, mix, budget):
    nlp = in_float64(pipeline(tiny, mix_layers=mix, words_per_batch=budget))
    wordpiecer, tok2vec = (component for _, component in nlp.pipeline)
    docs = [wordpiecer(nlp.make_doc(text)) for text in TEXTS]
    rng = np.random.default_rng(1)
    factors = [rng.normal(size=(len(doc), tok2vec.width)) for doc in docs]

    def loss() -> float:
        tok2vec.set_annotations(docs, tok2vec.predict(docs))
        return sum(float((np.sin(doc.tensor) * factor).sum()) for doc, factor in zip(docs, factors, strict=True))

    def backward() -> None:
        encoded, backprop = tok2vec.model.begin_update([Pieces.of(doc) for doc in docs])
        tok2vec.set_annotations(docs, encoded)
        for doc, factor in zip(docs, factors, strict=True):
            add_tensor_gradient(doc, np.cos(doc.tensor) * factor)
        backprop([(doc._.trf_d_last_hidden_state, None) for doc in docs])

    for module in tok2vec.transformer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    check_gradients(nlp, loss, backward)
