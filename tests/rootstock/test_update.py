"""One `nlp.update` updates the transformer by the batch's gradient: compared with PyTorch's autograd."""

import copy

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import SGD

from rootstock.attributes import ROWS
from rootstock.components.pooling import POOLING
from rootstock.encoder.encoder import LARGE_BATCH_BUDGET_DIVISOR, LARGE_BATCH_PACKS
from rootstock.pieces.alignment import alignment_entries
from rootstock.pieces.pieces import Pieces
from tests.conftest import pipeline

BATCHES = [
    [("I like it. A lot.", "GOOD"), ("No, not at all.", "BAD"), ("So so, I think it is.", "BAD")],
    [("Bad, bad, bad! Never again.", "BAD"), ("What a fine day.", "GOOD")],
]
RATE = 0.5


def build(tiny, heads=("textcat",), head="class_vector", exclusive=True, **config) -> spacy.Language:
    nlp = pipeline(tiny, **config)
    for seed, name in enumerate(heads):
        settings = {"seed": seed, "head": head, "exclusive_classes": exclusive}
        textcat = nlp.add_pipe("trf_textcat", name=name, config=settings)
        textcat.add_label("GOOD")
        textcat.add_label("BAD")
    return nlp


def examples(nlp, batch) -> list[Example]:
    return [
        Example.from_dict(nlp.make_doc(text), {"cats": {"GOOD": label == "GOOD", "BAD": label == "BAD"}})
        for text, label in batch
    ]


def sgd() -> SGD:
    return SGD(RATE, L2=0, grad_clip=0, use_averages=False)


def net_of(nlp):
    return nlp.get_pipe("trf_tok2vec").transformer


class Reference:
    """The same model in plain PyTorch, one sentence at a time, with gradients from autograd."""

    def __init__(self, nlp, heads):
        self.nlp, self.names, self.net = nlp, heads, copy.deepcopy(net_of(nlp)).train()
        for module in self.net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        linears = [nlp.get_pipe(name).linear for name in heads]
        self.heads = [[torch.tensor(lin.get_param(p), requires_grad=True) for p in ("W", "b")] for lin in linears]

    def accumulate(self, batch):
        for (weight, bias), name in zip(self.heads, self.names, strict=True):
            head = self.nlp.get_pipe(name)
            losses = []
            for text, label in batch:
                logits = self._rows(text, head.head) @ weight.T + bias
                truth = torch.tensor([label == "GOOD", label == "BAD"]).float()
                if head.exclusive_classes:
                    losses.append(-(truth * torch.log(logits.softmax(-1).mean(0))).sum())
                else:
                    p = logits.sigmoid().mean(0)
                    losses.append(torch.nn.functional.binary_cross_entropy(p, truth, reduction="sum"))
            torch.stack(losses).mean().backward()

    def _rows(self, text, pooling):
        """The rows that a head classifies, by definition."""
        doc = self.nlp.get_pipe("trf_wordpiecer")(self.nlp.make_doc(text))
        pieces = Pieces.of(doc)
        assert len(pieces.window_lengths) == pieces.n_sentences, "one window per sentence"
        ids = np.split(pieces.ids, np.cumsum(pieces.sentence_pieces)[:-1])
        outputs = [self.net(torch.from_numpy(i).long()[None]) for i in ids]
        hidden = torch.cat([output.last_hidden_state[0] for output in outputs])
        if pooling == "class_vector":
            return torch.stack([output.last_hidden_state[0, 0] for output in outputs])
        if pooling == "pooler":
            return torch.cat([output.pooler_output for output in outputs])
        if pooling == "mean":
            tokens, columns, weights = alignment_entries(pieces)
            alignment = torch.zeros(len(doc), len(hidden))
            alignment[tokens, columns] = torch.from_numpy(weights)
            return (alignment @ hidden).mean(0, keepdim=True)
        assert pooling == "last_hidden"
        return hidden

    def step(self):
        with torch.no_grad():
            for parameter in [*self.net.parameters(), *(p for head in self.heads for p in head)]:
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
                    parameter.grad = None

    def check(self, nlp, heads):
        updated = dict(net_of(nlp).named_parameters())
        for name, parameter in self.net.named_parameters():
            np.testing.assert_allclose(updated[name].detach(), parameter.detach(), atol=2e-5, err_msg=name)
        for name, params in zip(heads, self.heads, strict=True):
            for key, value in zip(("W", "b"), params, strict=True):
                np.testing.assert_allclose(nlp.get_pipe(name).linear.get_param(key), value.detach(), atol=2e-5)


CASES = {
    "one head": (("a",), ()),
    "two heads": (("a", "b"), ()),
    "two heads, the other order": (("b", "a"), ()),
    "the last head excluded": (("a", "b"), ("b",)),
    "the first head excluded": (("a", "b"), ("a",)),
}


@pytest.mark.parametrize(("heads", "exclude"), CASES.values(), ids=CASES.keys())
def test_each_update_steps_by_the_gradient_of_its_batch(tiny, heads, exclude):
    nlp = build(tiny, heads)
    active = [head for head in heads if head not in exclude]
    reference, optimizer = Reference(nlp, active), sgd()
    before = copy.deepcopy(net_of(nlp).state_dict())
    for batch in BATCHES:
        nlp.update(examples(nlp, batch), sgd=optimizer, exclude=exclude)
        reference.accumulate(batch)
        reference.step()
        reference.check(nlp, active)
    assert any(not torch.equal(before[name], value) for name, value in net_of(nlp).state_dict().items())


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "multi-label"])
@pytest.mark.parametrize("head", POOLING)
def test_each_head_steps_by_the_gradient(tiny, head, exclusive):
    nlp = build(tiny, head=head, exclusive=exclusive)
    reference, optimizer = Reference(nlp, ["textcat"]), sgd()
    for batch in BATCHES:
        nlp.update(examples(nlp, batch), sgd=optimizer)
        reference.accumulate(batch)
        reference.step()
        reference.check(nlp, ["textcat"])


@pytest.mark.parametrize("heads", [("a",), ("a", "b")])
def test_gradients_accumulate_over_batches(tiny, heads):
    """As in `spacy train`: updates without an optimizer, then finish_update of every component."""
    nlp = build(tiny, heads)
    reference, optimizer = Reference(nlp, heads), sgd()
    for _ in range(2):
        for batch in BATCHES:
            nlp.update(examples(nlp, batch), sgd=False)
            reference.accumulate(batch)
        for _, component in nlp.pipeline:
            if hasattr(component, "finish_update") and component.is_trainable:
                component.finish_update(optimizer)
        reference.step()
        reference.check(nlp, heads)


def test_backward_pass_does_not_wait_for_a_disabled_head(tiny):
    nlp = build(tiny, ("a", "b"))
    reference, optimizer = Reference(nlp, ["a"]), sgd()
    with nlp.select_pipes(disable="b"):
        nlp.update(examples(nlp, BATCHES[0]), sgd=optimizer)
    reference.accumulate(BATCHES[0])
    reference.step()
    reference.check(nlp, ["a"])


def test_gradient_is_the_same_with_many_packs(tiny):
    """With a budget smaller than the batch, microbatches are recomputed in the backward pass."""
    states = []
    for budget in (3000, 8):
        nlp = build(tiny, words_per_batch=budget)
        nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
        states.append(net_of(nlp).state_dict())
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, atol=2e-5, err_msg=name)


def test_few_distinct_input_shapes(tiny):
    """oneDNN compiles a kernel for each shape: 20 lengths are rounded up to a few, by at most 1/32."""
    nlp, shapes = build(tiny), []
    nlp.get_pipe("trf_tok2vec").transformer.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    lengths = [Pieces.of(nlp("I like it. " * 80 + "so " * n)).window_lengths.sum() for n in range(1, 21)]
    assert len(set(lengths)) == 20 and len(set(shapes)) < 5
    assert all(n <= rows <= n * 33 / 32 for n, rows in zip(lengths, shapes, strict=True))


def test_packs_of_a_huge_document_are_smaller_in_training(tiny):
    """The gradient is that of one pack."""
    batch, states, sizes = [("I like it. " * 60, "GOOD")], [], []
    for budget in (3000, 32):
        nlp = build(tiny, words_per_batch=budget)
        net_of(nlp).register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        nlp.update(examples(nlp, batch), sgd=sgd())
        states.append(net_of(nlp).state_dict())
    assert sizes[0] > LARGE_BATCH_PACKS * 32 and max(sizes[1:]) <= 32 // LARGE_BATCH_BUDGET_DIVISOR
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, atol=2e-5, err_msg=name)


def test_bf16_gradients_are_close_to_fp32(minilm):
    """States and gradients between layers are bf16, also in training."""
    gradients, dtypes = {}, {}
    for precision in ("fp32", "bf16"):
        nlp = build(minilm, precision=precision)
        seen = dtypes[precision] = set()
        for layer in net_of(nlp).encoder.layer:
            layer.register_full_backward_pre_hook(lambda layer, gradient, seen=seen: seen.add(gradient[0].dtype))
            layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.add(output.dtype))
        batch = examples(nlp, BATCHES[0])
        for _, component in nlp.pipeline:
            component.update(batch)
        grads = [p.grad for p in net_of(nlp).parameters() if p.grad is not None]
        gradients[precision] = torch.cat([g.to_dense().flatten() if g.is_sparse else g.flatten() for g in grads])
    assert dtypes == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}
    difference = (gradients["bf16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert 0 < difference < 0.05


def test_fp16_updates_are_close_and_an_overflow_skips_the_step(tiny):
    """Updates are close to fp32. An overflow skips the transformer's step and halves the loss scale."""
    states = []
    for precision in ("fp32", "fp16"):
        nlp = build(tiny, precision=precision)
        for batch in BATCHES:
            nlp.update(examples(nlp, batch), sgd=sgd())
        states.append(copy.deepcopy(net_of(nlp).state_dict()))
    tok2vec = nlp.get_pipe("trf_tok2vec")
    start = build(tiny).get_pipe("trf_tok2vec").transformer.state_dict()
    for name, value in states[0].items():
        change = (value - start[name]).norm()
        assert (states[1][name] - value).norm() <= 0.05 * change + 1e-6, name

    scale = tok2vec.model.attrs["loss_scale"]
    assert scale.value == 2.0**16 and scale.steps == 2
    scale.value = 2.0**40
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    assert scale.value == 2.0**39 and scale.steps == 0
    assert all(torch.equal(states[1][name], value) for name, value in net_of(nlp).state_dict().items())


def test_recomputation_uses_the_same_dropout_masks(tiny):
    nlp = build(tiny, words_per_batch=8)
    tok2vec = nlp.get_pipe("trf_tok2vec")
    outputs = []
    tok2vec.transformer.register_forward_hook(lambda module, args, output: outputs.append(output.last_hidden_state))
    torch.manual_seed(1)
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd(), drop=0.5)
    forward, recomputed = outputs[: len(outputs) // 2 + 1], outputs[len(outputs) // 2 + 1 :]
    assert len(recomputed) == len(forward) - 1 > 1
    for first, second in zip(forward[1:], recomputed, strict=True):
        torch.testing.assert_close(first, second.detach(), atol=1e-6, rtol=1e-6)


def test_a_frozen_transformer_does_not_change(tiny):
    nlp = build(tiny, trainable=False)
    before = copy.deepcopy(net_of(nlp).state_dict())
    head = nlp.get_pipe("textcat").linear.get_param("W").copy()
    losses = nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    assert losses["textcat"] > 0
    assert all(torch.equal(before[name], value) for name, value in net_of(nlp).state_dict().items())
    assert not np.array_equal(head, nlp.get_pipe("textcat").linear.get_param("W"))


def test_excluding_the_transformer_trains_only_the_head(tiny):
    nlp = build(tiny)
    before = copy.deepcopy(net_of(nlp).state_dict())
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd(), exclude=["trf_tok2vec"])
    assert all(torch.equal(before[name], value) for name, value in net_of(nlp).state_dict().items())


def test_a_step_after_loading_is_the_same(tiny, tmp_path):
    nlp = build(tiny)
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    for pipe in (nlp, loaded):
        pipe.update(examples(pipe, BATCHES[1]), sgd=sgd())
    for name, value in net_of(nlp).state_dict().items():
        assert torch.equal(net_of(loaded).state_dict()[name], value), name


def test_a_frozen_transformer_skips_documents_with_precomputed_features(tiny):
    """The trained head is the same as with text. A trainable transformer ignores precomputed features."""
    plain, reduced, trainable_nlp = (build(tiny, trainable=trainable) for trainable in (False, False, True))
    texts = [text for batch in BATCHES for text, _ in batch]
    rows = {doc.text: plain.get_pipe("textcat").rows(doc)[0] for doc in plain.pipe(texts)}
    for batch in BATCHES:
        plain.update(examples(plain, batch), sgd=sgd())
        for nlp in (reduced, trainable_nlp):
            data = examples(nlp, batch)
            for example in data:
                example.predicted.user_data[ROWS] = rows[example.text]
            nlp.update(data, sgd=sgd())
    heads = [nlp.get_pipe("textcat").linear.get_param("W") for nlp in (plain, reduced, trainable_nlp)]
    np.testing.assert_allclose(heads[1], heads[0], atol=1e-6)
    assert np.abs(heads[2] - heads[0]).max() > 1e-4
    docs = [reduced.make_doc(text) for text in rows]
    for doc in docs:
        doc.user_data[ROWS] = rows[doc.text]
    for doc, other in zip(reduced.pipe(docs), plain.pipe(rows), strict=True):
        assert len(doc.tensor) == 0 and doc._.trf_last_hidden_state is None and len(other.tensor) == len(other)
        assert doc.cats == pytest.approx(other.cats, abs=1e-6)


def test_a_trainable_transformer_requires_text(tiny):
    nlp = build(tiny)
    reduced = Doc(nlp.vocab)
    reduced.user_data[ROWS] = np.zeros((1, 16), "f")
    with pytest.raises(ValueError, match="trainable: false"):
        nlp.update([Example(reduced, reduced)], sgd=sgd())
