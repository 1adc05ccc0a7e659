"""One `nlp.update` moves the transformer by that batch's gradient: held against PyTorch's own autograd."""

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
from rootstock.encoder.encoder import MANY, SHARE
from rootstock.pieces.alignment import entries
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
        head_ = nlp.add_pipe("trf_textcat", name=name, config=settings)
        head_.add_label("GOOD")
        head_.add_label("BAD")
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
    """The same model in plain PyTorch, one sentence at a time, stepped by the gradient that autograd finds."""

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

    def _rows(self, text, way):
        """What a head classifies, straight from the definitions."""
        doc = self.nlp.get_pipe("trf_wordpiecer")(self.nlp.make_doc(text))
        pieces = Pieces.of(doc)
        assert len(pieces.window_lengths) == pieces.n_sentences, "no windows here"
        ids = np.split(pieces.ids, np.cumsum(pieces.sentence_pieces)[:-1])
        outputs = [self.net(torch.from_numpy(i).long()[None]) for i in ids]
        hidden = torch.cat([output.last_hidden_state[0] for output in outputs])
        if way == "class_vector":
            return torch.stack([output.last_hidden_state[0, 0] for output in outputs])
        if way == "pooler":
            return torch.cat([output.pooler_output for output in outputs])
        if way == "mean":
            tokens, columns, weights = entries(pieces)
            alignment = torch.zeros(len(doc), len(hidden))
            alignment[tokens, columns] = torch.from_numpy(weights)
            return (alignment @ hidden).mean(0, keepdim=True)
        assert way == "last_hidden"
        return hidden

    def step(self):
        with torch.no_grad():
            for parameter in [*self.net.parameters(), *(p for head in self.heads for p in head)]:
                if parameter.grad is not None:
                    parameter -= RATE * parameter.grad
                    parameter.grad = None

    def check(self, nlp, heads):
        moved = dict(net_of(nlp).named_parameters())
        for name, parameter in self.net.named_parameters():
            np.testing.assert_allclose(moved[name].detach(), parameter.detach(), atol=2e-5, err_msg=name)
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
def test_a_call_steps_by_its_own_gradient(tiny, heads, exclude):
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


@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "several labels"])
@pytest.mark.parametrize("head", POOLING)
def test_every_head(tiny, head, exclusive):
    nlp = build(tiny, head=head, exclusive=exclusive)
    reference, optimizer = Reference(nlp, ["textcat"]), sgd()
    for batch in BATCHES:
        nlp.update(examples(nlp, batch), sgd=optimizer)
        reference.accumulate(batch)
        reference.step()
        reference.check(nlp, ["textcat"])


@pytest.mark.parametrize("heads", [("a",), ("a", "b")])
def test_gradients_accumulate_over_two_batches(tiny, heads):
    """As `spacy train` does it: updates without an optimizer, then finish_update for every component in turn."""
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


def test_a_disabled_head_is_not_waited_for(tiny):
    nlp = build(tiny, ("a", "b"))
    reference, optimizer = Reference(nlp, ["a"]), sgd()
    with nlp.select_pipes(disable="b"):
        nlp.update(examples(nlp, BATCHES[0]), sgd=optimizer)
    reference.accumulate(BATCHES[0])
    reference.step()
    reference.check(nlp, ["a"])


def test_many_packs_give_the_gradient_of_one(tiny):
    """A budget too small for the batch: what is not kept is computed again, with the same dropout."""
    states = []
    for budget in (3000, 8):
        nlp = build(tiny, words_per_batch=budget)
        nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
        states.append(net_of(nlp).state_dict())
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, atol=2e-5, err_msg=name)


def test_shapes_recur(tiny):
    """A product is compiled, and kept, for each shape: documents of 20 lengths share a few, none a 32nd too large."""
    nlp, seen = build(tiny), []
    nlp.get_pipe("trf_tok2vec").transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    real = [Pieces.of(nlp("I like it. " * 80 + "so " * n)).window_lengths.sum() for n in range(1, 21)]
    assert len(set(real)) == 20 and len(set(seen)) < 5
    assert all(n <= rows <= n * 33 / 32 for n, rows in zip(real, seen, strict=True))


def test_a_huge_document_is_computed_in_smaller_packs(tiny):
    """In training: the graph of one is all that is held. The gradient is that of one pack."""
    batch, states, seen = [("I like it. " * 60, "GOOD")], [], []
    for budget in (3000, 32):
        nlp = build(tiny, words_per_batch=budget)
        net_of(nlp).register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
        )
        nlp.update(examples(nlp, batch), sgd=sgd())
        states.append(net_of(nlp).state_dict())
    assert seen[0] > MANY * 32 and max(seen[1:]) <= 32 // SHARE
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, atol=2e-5, err_msg=name)


def test_bf16_learns_the_same(minilm):
    """All that flows between layers is bf16, in training too; gradients stay those of fp32."""
    gradients, flows = {}, {}
    for precision in ("fp32", "bf16"):
        nlp = build(minilm, precision=precision)
        seen = flows[precision] = set()
        for layer in net_of(nlp).encoder.layer:
            layer.register_full_backward_pre_hook(lambda layer, gradient, seen=seen: seen.add(gradient[0].dtype))
            layer.register_forward_hook(lambda layer, inputs, output, seen=seen: seen.add(output.dtype))
        given = examples(nlp, BATCHES[0])
        for _, component in nlp.pipeline:
            component.update(given)
        found = [p.grad for p in net_of(nlp).parameters() if p.grad is not None]
        gradients[precision] = torch.cat([g.to_dense().flatten() if g.is_sparse else g.flatten() for g in found])
    assert flows == {"fp32": {torch.float32}, "bf16": {torch.bfloat16}}
    difference = (gradients["bf16"] - gradients["fp32"]).norm() / gradients["fp32"].norm()
    assert 0 < difference < 0.05


def test_fp16_scales_the_loss(tiny):
    """Close to fp32; an overflow costs a step of the transformer and halves the scale."""
    states = []
    for precision in ("fp32", "fp16"):
        nlp = build(tiny, precision=precision)
        for batch in BATCHES:
            nlp.update(examples(nlp, batch), sgd=sgd())
        states.append(copy.deepcopy(net_of(nlp).state_dict()))
    tok2vec = nlp.get_pipe("trf_tok2vec")
    start = build(tiny).get_pipe("trf_tok2vec").transformer.state_dict()
    for name, value in states[0].items():
        moved = (value - start[name]).norm()
        assert (states[1][name] - value).norm() <= 0.05 * moved + 1e-6, name

    scale = tok2vec.model.attrs["loss_scale"]
    assert scale.value == 2.0**16 and scale.steps == 2
    scale.value = 2.0**40
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    assert scale.value == 2.0**39 and scale.steps == 0
    assert all(torch.equal(states[1][name], value) for name, value in net_of(nlp).state_dict().items())


def test_recomputation_draws_the_same_dropout(tiny):
    nlp = build(tiny, words_per_batch=8)
    tok2vec = nlp.get_pipe("trf_tok2vec")
    outputs = []
    tok2vec.transformer.register_forward_hook(lambda module, args, output: outputs.append(output.last_hidden_state))
    torch.manual_seed(1)
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd(), drop=0.5)
    kept, recomputed = outputs[: len(outputs) // 2 + 1], outputs[len(outputs) // 2 + 1 :]
    assert len(recomputed) == len(kept) - 1 > 1
    for first, again in zip(kept[1:], recomputed, strict=True):
        torch.testing.assert_close(first, again.detach(), atol=1e-6, rtol=1e-6)


def test_a_frozen_transformer_stays(tiny):
    nlp = build(tiny, trainable=False)
    before = copy.deepcopy(net_of(nlp).state_dict())
    head = nlp.get_pipe("textcat").linear.get_param("W").copy()
    losses = nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    assert losses["textcat"] > 0
    assert all(torch.equal(before[name], value) for name, value in net_of(nlp).state_dict().items())
    assert not np.array_equal(head, nlp.get_pipe("textcat").linear.get_param("W"))


def test_excluding_the_transformer_trains_the_head_alone(tiny):
    nlp = build(tiny)
    before = copy.deepcopy(net_of(nlp).state_dict())
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd(), exclude=["trf_tok2vec"])
    assert all(torch.equal(before[name], value) for name, value in net_of(nlp).state_dict().items())


def test_a_step_after_loading_equals_one_without(tiny, tmp_path):
    nlp = build(tiny)
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    for one in (nlp, loaded):
        one.update(examples(one, BATCHES[1]), sgd=sgd())
    for name, value in net_of(nlp).state_dict().items():
        assert torch.equal(net_of(loaded).state_dict()[name], value), name


def test_a_frozen_transformer_spares_documents_that_bring_what_the_head_reads(tiny):
    """The same head comes out, and nothing is computed; a transformer that learns computes all the same."""
    plain, reduced, learning = (build(tiny, trainable=trainable) for trainable in (False, False, True))
    texts = [text for batch in BATCHES for text, _ in batch]
    rows = {doc.text: plain.get_pipe("textcat").rows(doc)[0] for doc in plain.pipe(texts)}
    for batch in BATCHES:
        plain.update(examples(plain, batch), sgd=sgd())
        for nlp in (reduced, learning):
            made = examples(nlp, batch)
            for example in made:
                example.predicted.user_data[ROWS] = rows[example.text]
            nlp.update(made, sgd=sgd())
    heads = [nlp.get_pipe("textcat").linear.get_param("W") for nlp in (plain, reduced, learning)]
    np.testing.assert_allclose(heads[1], heads[0], atol=1e-6)
    assert np.abs(heads[2] - heads[0]).max() > 1e-4
    docs = [reduced.make_doc(text) for text in rows]
    for doc in docs:
        doc.user_data[ROWS] = rows[doc.text]
    for doc, other in zip(reduced.pipe(docs), plain.pipe(rows), strict=True):
        assert len(doc.tensor) == 0 and doc._.trf_last_hidden_state is None and len(other.tensor) == len(other)
        assert doc.cats == pytest.approx(other.cats, abs=1e-6)


def test_a_transformer_that_learns_wants_text(tiny):
    nlp = build(tiny)
    reduced = Doc(nlp.vocab)
    reduced.user_data[ROWS] = np.zeros((1, 16), "f")
    with pytest.raises(ValueError, match="trainable: false"):
        nlp.update([Example(reduced, reduced)], sgd=sgd())
