import copy
import random

import numpy as np
import pytest
import spacy
import srsly
import torch
from spacy.cli.evaluate import evaluate
from spacy.cli.find_threshold import find_threshold
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch
from thinc.types import Ragged

from rootstock.components.pooling import POOLING
from rootstock.components.textcat import mean_of_rows
from tests.conftest import pipeline
from tests.rootstock.test_update import BATCHES, build, examples, net_of, sgd

TRAIN_DATA = [
    ("A joy from the first page to the last.", "POSITIVE"),
    ("I loved every minute. Go and see it!", "POSITIVE"),
    ("Wonderful food, and such kind people.", "POSITIVE"),
    ("It works like a charm, I am delighted.", "POSITIVE"),
    ("Dull, long and far too loud.", "NEGATIVE"),
    ("I hated it. What a waste of money.", "NEGATIVE"),
    ("The soup was cold and the waiter rude.", "NEGATIVE"),
    ("Broke after a day; I am very disappointed.", "NEGATIVE"),
]


def cats(label: str) -> dict:
    return {"cats": {"POSITIVE": float(label == "POSITIVE"), "NEGATIVE": float(label == "NEGATIVE")}}


def test_training_loop_of_the_article(minilm, tmp_path):
    """The article's loop with spaCy 3's API: no initialize, no annotates, spaCy's default optimizer."""
    fix_random_seed(0)
    nlp = pipeline(minilm)
    textcat = nlp.add_pipe("trf_textcat", config={"exclusive_classes": True})
    for label in ("POSITIVE", "NEGATIVE"):
        textcat.add_label(label)

    train_data = list(TRAIN_DATA)
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 2e-4
    history = []
    for _ in range(10):
        random.shuffle(train_data)
        losses = {}
        for batch in minibatch(train_data, size=4):
            examples = [Example.from_dict(nlp.make_doc(text), cats(label)) for text, label in batch]
            nlp.update(examples, sgd=optimizer, losses=losses)
        history.append(losses["trf_textcat"])
    nlp.to_disk(tmp_path / "bert-textcat")

    assert history[-1] < 0.2 * history[0]
    loaded = spacy.load(tmp_path / "bert-textcat")
    for text, label in [
        *TRAIN_DATA,
        ("What a delight, I love it.", "POSITIVE"),
        ("I am disappointed and hate it.", "NEGATIVE"),
    ]:
        scores = loaded(text).cats
        assert max(scores, key=scores.get) == label
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert scores == nlp(text).cats


@pytest.mark.parametrize("exclusive", [True, False])
def test_gradient_of_mean_of_rows(exclusive):
    rng = np.random.default_rng(0)
    lengths = np.array([1, 3, 2], "i")
    logits = rng.normal(size=(6, 3)).astype("float64")
    model = mean_of_rows(exclusive)
    scores, backprop = model.begin_update(Ragged(logits.astype("f"), lengths))
    d_scores = rng.normal(size=scores.shape).astype("f")
    gradient = backprop(d_scores).dataXd

    def value(z):
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True) if exclusive else 1 / (1 + np.exp(-z))
        return (np.stack([part.mean(0) for part in np.split(p, [1, 4])]) * d_scores).sum()

    for i in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[i] = 1e-6
        assert gradient[i] == pytest.approx((value(logits + step) - value(logits - step)) / 2e-6, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("exclusive", [True, False])
def test_gradient_of_the_loss(tiny, exclusive, smoothing):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat", config={"exclusive_classes": exclusive, "label_smoothing": smoothing})
    for label in "ABC":
        head.add_label(label)
    head.label_weights = {"C": 3.0} if smoothing else {}
    truths = [{"A": 1.0, "B": 0.0, "C": 0.0}, {"A": 0.0, "C": 1.0}, {}]
    examples = [Example.from_dict(nlp.make_doc("x"), {"cats": truth}) for truth in truths]
    scores = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]])
    loss, gradient = head.get_loss(examples, scores)
    for i in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[i] = 1e-6
        difference = (head.get_loss(examples, scores + step)[0] - head.get_loss(examples, scores - step)[0]) / 2e-6
        assert gradient[i] == pytest.approx(difference, abs=1e-5)
    assert not gradient[2].any(), "the third document has no cats"
    if exclusive and not smoothing:
        assert loss == pytest.approx((-np.log(0.2) - np.log(0.3)) / 3)
    elif not exclusive:
        assert gradient[1, 1] == 0, "the second document has no B in its cats"


@pytest.mark.parametrize("exclusive", [True, False])
def test_smoothed_and_weighted_loss_is_that_of_pytorch(tiny, exclusive):
    nlp = pipeline(tiny)
    settings = {"exclusive_classes": exclusive, "label_smoothing": 0.2}
    textcat = nlp.add_pipe("trf_textcat", config=settings)
    for label in "ABC":
        textcat.add_label(label)
    textcat.label_weights = {"A": 2.0, "B": 0.5}
    truth = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    logits = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    if exclusive:
        scores, smooth = logits.softmax(1), 0.8 * truth + 0.2 / 3
        expected = -(weights * smooth * logits.log_softmax(1)).sum() / 3
    else:
        scores, smooth = logits.sigmoid(), 0.8 * truth + 0.1
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        expected = loss(logits, smooth, pos_weight=weights, reduction="sum") / 3
    cats = [dict(zip("ABC", row, strict=True)) for row in truth.tolist()]
    golds = [Example.from_dict(nlp.make_doc("x"), {"cats": values}) for values in cats]
    assert textcat.get_loss(golds, scores.numpy())[0] == pytest.approx(float(expected))


def test_probabilities_are_averaged_over_sentences(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    for label in "AB":
        head.add_label(label)
    one, two, both = (nlp(text).cats["A"] for text in ("Nice.", "Awful thing.", "Nice. Awful thing."))
    assert abs(one - two) > 1e-4
    assert both == pytest.approx((one + two) / 2, abs=1e-6)


def test_adding_a_label_keeps_existing_weights(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    assert [head.add_label(label) for label in "ABA"] == [1, 1, 0]
    before = head.linear.get_param("W").copy()
    head.add_label("C")
    assert np.array_equal(head.linear.get_param("W")[:2], before)
    assert head.linear.get_param("W").any(axis=1).all()
    assert list(nlp("Text.").cats) == ["A", "B", "C"]


def test_the_seed_determines_initial_weights(tiny):
    def initial(seed):
        head = pipeline(tiny).add_pipe("trf_textcat", config={"seed": seed})
        head.add_label("A")
        return head.linear.get_param("W")

    assert np.array_equal(initial(0), initial(0)) and not np.array_equal(initial(0), initial(1))


def test_initialize_adds_labels_from_examples(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    nlp.initialize(lambda: [Example.from_dict(nlp.make_doc(text), cats(label)) for text, label in TRAIN_DATA])
    assert head.labels == ("NEGATIVE", "POSITIVE")


def test_multi_label_training(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat", config={"exclusive_classes": False})
    for label in ("FOOD", "STAFF"):
        head.add_label(label)
    data = [
        ("Tasty soup.", {"FOOD": 1.0, "STAFF": 0.0}),
        ("Kind waiter, good soup.", {"FOOD": 1.0, "STAFF": 1.0}),
        ("Far away.", {"FOOD": 0.0, "STAFF": 0.0}),
    ]
    examples = [Example.from_dict(nlp.make_doc(text), {"cats": truth}) for text, truth in data]
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 0.01
    for _ in range(100):
        losses = nlp.update(examples, sgd=optimizer, losses={})
    assert losses["trf_textcat"] < 0.1
    for text, truth in data:
        assert {k: v >= 0.5 for k, v in nlp(text).cats.items()} == {k: bool(v) for k, v in truth.items()}
    assert nlp.evaluate(examples)["cats_score"] == 1.0


def test_documents_without_tokens_get_zeros(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    for label in "AB":
        head.add_label(label)
    assert nlp("").cats == {"A": 0.0, "B": 0.0}
    empty = Example.from_dict(nlp.make_doc(""), {"cats": {"A": 1.0}})
    full = Example.from_dict(nlp.make_doc("Text."), {"cats": {"A": 1.0}})
    assert nlp.update([empty, full])["trf_textcat"] > 0
    assert [bool(any(doc.cats.values())) for doc in nlp.pipe(["", "Text.", " "])] == [False, True, True]


def test_error_messages(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    with pytest.raises(ValueError, match="has 0 label"):
        nlp("Text.")
    with pytest.raises(ValueError, match="a label must be a string"):
        head.add_label(1)
    without_transformer = spacy.blank("en")
    textcat = without_transformer.add_pipe("trf_textcat")
    textcat.add_label("A"), textcat.add_label("B")
    with pytest.raises(ValueError, match="needs 'trf_tok2vec' before it"):
        without_transformer.update([Example.from_dict(without_transformer.make_doc("x"), {"cats": {"A": 1.0}})])


@pytest.mark.parametrize("head", [*POOLING, "native"])
@pytest.mark.parametrize("text", ["", " "], ids=["no tokens", "no pieces"])
def test_documents_without_pieces_have_no_loss_and_no_gradient(tiny, head, text):
    """The tokenizer here adds no boundary pieces, as that of GPT-2: white space has none at all."""
    nlp = build(tiny, head=head)
    wordpiecer = nlp.get_pipe("trf_wordpiecer")
    wordpiecer.tokenizer.backend_tokenizer.post_processor = None
    without = Example.from_dict(nlp.make_doc(text), {"cats": {"GOOD": 1.0, "BAD": 0.0}})
    before = copy.deepcopy(net_of(nlp).state_dict()), nlp.get_pipe("textcat").linear.get_param("W").copy()
    assert nlp.update([without], sgd=sgd())["textcat"] == 0
    assert all(torch.equal(before[0][key], value) for key, value in net_of(nlp).state_dict().items())
    assert np.array_equal(before[1], nlp.get_pipe("textcat").linear.get_param("W"))
    scores = [doc.cats for doc in nlp.pipe([text, "Text."])]
    assert nlp(text).cats == scores[0] and all(np.isfinite(list(one.values())).all() for one in scores)


@pytest.mark.parametrize("head", POOLING)
def test_an_empty_document_in_a_batch_adds_no_loss(tiny, head):
    """The others have the same gradients as beside a document without cats."""
    results = []
    for text, cats in (("", {"GOOD": 1.0, "BAD": 0.0}), ("Text.", {})):
        nlp = build(tiny, head=head)
        batch = [*examples(nlp, BATCHES[0]), Example.from_dict(nlp.make_doc(text), {"cats": cats})]
        results.append((nlp.update(batch, sgd=sgd())["textcat"], nlp.get_pipe("textcat").linear.get_param("W")))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize("head", ["class_vector", "native"])
def test_initialize_starts_anew(tiny, tmp_path, head):
    """The head from its first weights, the transformer from those that it was loaded with, for add_pipe and load."""
    nlp = build(tiny, head=head)
    nlp.to_disk(tmp_path / "pipeline")
    for one in (nlp, spacy.load(tmp_path / "pipeline")):
        expected, states = one("Text.").cats, copy.deepcopy(net_of(one).state_dict())
        for _ in range(2):
            one.update(examples(one, BATCHES[0]), sgd=sgd())
            assert one("Text.").cats != expected
            one.initialize(lambda one=one: examples(one, BATCHES[0]))
            assert one("Text.").cats == expected and one.get_pipe("textcat").labels == ("GOOD", "BAD")
            assert all(torch.equal(states[key], value) for key, value in net_of(one).state_dict().items())


def test_initialize_keeps_the_transformer_if_its_weights_are_gone(tiny):
    nlp = build(tiny)
    nlp = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    nlp.initialize(lambda: examples(nlp, BATCHES[0]))  # not trained yet: no warning
    nlp.update(examples(nlp, BATCHES[0]), sgd=sgd())
    trained = copy.deepcopy(net_of(nlp).state_dict())
    with pytest.warns(UserWarning, match="'trf_tok2vec' keeps its trained weights"):
        nlp.initialize(lambda: examples(nlp, BATCHES[0]))
    assert all(torch.equal(trained[key], value) for key, value in net_of(nlp).state_dict().items())


def test_labels_have_thresholds_of_their_own(tiny, tmp_path):
    """For `decide` and for scores, also when saved. The area under the curve does not depend on them."""
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat", config={"exclusive_classes": False, "threshold": 0.6})
    head.add_label("GOOD"), head.add_label("BAD")
    golds = examples(nlp, BATCHES[0] * 2)
    plain = nlp.evaluate(golds)
    p = sorted(doc.cats["GOOD"] for doc in nlp.pipe(eg.text for eg in golds))
    head.thresholds["GOOD"] = (p[0] + p[-1]) / 2
    nlp.to_disk(tmp_path)
    nlp = spacy.load(tmp_path)
    head = nlp.get_pipe("trf_textcat")
    assert head.threshold_of("GOOD") == pytest.approx((p[0] + p[-1]) / 2) and head.threshold_of("BAD") == pytest.approx(
        0.6
    )
    scores = nlp.evaluate(golds)
    docs = list(nlp.pipe(eg.text for eg in golds))
    decided = ["GOOD" in head.decide(doc) for doc in docs]
    assert decided == [doc.cats["GOOD"] >= head.thresholds["GOOD"] for doc in docs] and len(set(decided)) == 2
    gold = [eg.reference.cats["GOOD"] == 1 for eg in golds]
    hits = sum(a and b for a, b in zip(decided, gold, strict=True))
    assert scores["cats_f_per_type"]["GOOD"]["p"] == pytest.approx(hits / sum(decided))
    assert scores["cats_f_per_type"]["GOOD"]["r"] == pytest.approx(hits / sum(gold))
    assert scores["cats_f_per_type"]["BAD"] == plain["cats_f_per_type"]["BAD"]
    assert scores["cats_auc_per_type"] == plain["cats_auc_per_type"]


def test_the_most_probable_label_is_decided(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    head.add_label("GOOD"), head.add_label("BAD")
    doc = nlp("It is fine.")
    assert head.decide(doc) == [max(doc.cats, key=doc.cats.get)] and head.decide(nlp("")) == []


def test_threshold_is_a_setting(tiny, tmp_path):
    """spaCy's find-threshold and evaluate; a pipeline that was saved without the setting scores as before."""
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat", config={"exclusive_classes": False, "threshold": 1.0})
    head.add_label("GOOD"), head.add_label("BAD")
    assert nlp.evaluate(examples(nlp, BATCHES[0]))["cats_macro_r"] == 0
    assert nlp.config["components"]["trf_textcat"]["threshold"] == 1.0
    nlp.to_disk(tmp_path / "pipeline")
    DocBin(docs=[eg.reference for eg in examples(nlp, BATCHES[0])]).to_disk(tmp_path / "dev.spacy")
    assert evaluate(str(tmp_path / "pipeline"), tmp_path / "dev.spacy", silent=True)["cats_macro_r"] == 0
    best, _, scores = find_threshold(
        tmp_path / "pipeline", tmp_path / "dev.spacy", "trf_textcat", "threshold", "cats_macro_r", n_trials=3
    )
    assert best == 0 and scores[0.0] == 1 and scores[1.0] == 0
    srsly.write_json(tmp_path / "pipeline" / "trf_textcat" / "cfg", {"labels": ["GOOD", "BAD"]})
    old = spacy.load(tmp_path / "pipeline")
    scores = old.evaluate(examples(old, BATCHES[0]))
    old.get_pipe("trf_textcat").cfg["threshold"] = 0.5
    assert old.evaluate(examples(old, BATCHES[0]))["cats_f_per_type"] == scores["cats_f_per_type"]
