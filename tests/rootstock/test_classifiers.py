"""Conversion of fine-tuned classifiers between Transformers and spaCy, with equal logits."""

import numpy as np
import pytest
import spacy
import torch
from thinc.api import SGD
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rootstock.classifiers import from_transformers, to_transformers
from rootstock.pairs import make_pair
from tests.conftest import pipeline
from tests.rootstock.test_finite_differences import check_head, in_float64
from tests.rootstock.test_update import BATCHES, examples, sgd
from tests.rootstock.weights.test_families import FAMILIES, TEXTS, TOKENIZERS, make_weights

pytestmark = pytest.mark.skipif(not TOKENIZERS.is_dir(), reason=f"no tokenizers in {TOKENIZERS}")
LABELS = {0: "GOOD", 1: "BAD", 2: "SO SO"}
SHORT = TEXTS[:2]


def make_classifier(family, folder, **settings):
    make_config, config, tokenizer_name = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / tokenizer_name)
    size = {"n_words": len(tokenizer)} if family == "xlm" else {"vocab_size": len(tokenizer)}
    pad = {"pad_token_id": tokenizer.eos_token_id} if family == "gpt2" else {}
    torch.manual_seed(1)
    net = AutoModelForSequenceClassification.from_config(
        make_config(**{**config, **size, **pad, "id2label": LABELS, **settings})
    )
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits_of(folder, *texts) -> np.ndarray:
    """Logits from Transformers of one text or pair."""
    net = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(*texts, return_tensors="pt")
    if net.config.model_type in ("distilbert", "mpnet", "modernbert", "xlm"):  # no token types; see families.py
        encoded.pop("token_type_ids", None)
    with torch.no_grad():
        return net(**encoded).logits.numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def classifier(request, tmp_path_factory):
    return make_classifier(request.param, tmp_path_factory.mktemp(request.param))


def fp32(folder, **config):
    return from_transformers(folder, tok2vec={"precision": "fp32", **config})


def test_logits_are_equal_after_conversion_in_both_directions(classifier, tmp_path):
    nlp = fp32(classifier)
    head = nlp.get_pipe("trf_textcat")
    assert head.labels == tuple(LABELS.values()) and head.exclusive_classes
    for doc in nlp.pipe(SHORT):
        expected = logits_of(classifier, doc.text)
        np.testing.assert_allclose(head.logits([doc])[0], expected, atol=1e-4)
        p = np.exp(expected[0]) / np.exp(expected[0]).sum()
        assert doc.cats == pytest.approx(dict(zip(LABELS.values(), p.tolist(), strict=True)), abs=1e-4)

    to_transformers(nlp, tmp_path / "unchanged")
    nlp.update(three_label_examples(nlp), sgd=sgd())
    to_transformers(nlp, tmp_path / "trained")
    for text in SHORT:
        expected = logits_of(classifier, text)
        np.testing.assert_allclose(logits_of(tmp_path / "unchanged", text), expected, atol=1e-5)
        trained = logits_of(tmp_path / "trained", text)
        np.testing.assert_allclose(head.logits([nlp(text)])[0], trained, atol=1e-4)
        assert abs(trained - expected).max() > 1e-3
    net = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained")
    assert net.config.id2label == LABELS and net.config.problem_type == "single_label_classification"


def three_label_examples(nlp):
    data = examples(nlp, BATCHES[0])
    for example in data:
        example.reference.cats["SO SO"] = 0.0
    return data


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_converted_pipeline_is_saved_and_loaded(family, tmp_path):
    nlp = fp32(make_classifier(family, tmp_path / "classifier"))
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    from_bytes = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    for text in SHORT:
        assert loaded(text).cats == pytest.approx(nlp(text).cats, abs=1e-6)
        assert from_bytes(text).cats == pytest.approx(nlp(text).cats, abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlnet"])
def test_logits_of_a_pair(family, tmp_path):
    make_classifier(family, tmp_path)
    nlp = fp32(tmp_path)
    doc = nlp(make_pair(nlp, "Laura flew to Paris.", "She is there now. It rains."))
    expected = logits_of(tmp_path, "Laura flew to Paris.", "She is there now. It rains.")
    np.testing.assert_allclose(nlp.get_pipe("trf_textcat").logits([doc])[0], expected, atol=1e-4)


def test_multi_label_classifier(tmp_path):
    make_classifier("bert", tmp_path, problem_type="multi_label_classification")
    nlp = fp32(tmp_path)
    p = 1 / (1 + np.exp(-logits_of(tmp_path, SHORT[0])[0]))
    assert nlp(SHORT[0]).cats == pytest.approx(dict(zip(LABELS.values(), p.tolist(), strict=True)), abs=1e-4)
    to_transformers(nlp, tmp_path / "back")
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").config
    assert config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "modernbert"])
def test_native_head_trained_from_scratch_converts_to_transformers(family, tmp_path):
    nlp = pipeline(make_weights(family, tmp_path / "weights"), spans="document")
    head = nlp.add_pipe("trf_textcat", config={"head": "native"})
    head.add_label("GOOD"), head.add_label("BAD")
    losses = [nlp.update(examples(nlp, BATCHES[0]), sgd=SGD(0.02), losses={})["trf_textcat"] for _ in range(3)]
    assert losses[-1] < losses[0]
    to_transformers(nlp, tmp_path / "back")
    for text in SHORT:
        expected = logits_of(tmp_path / "back", text)
        np.testing.assert_allclose(head.logits([nlp(text)])[0], expected, atol=1e-4)


def test_gradients_of_a_native_head_with_a_hidden_layer(tmp_path):
    nlp = from_transformers(make_classifier("roberta", tmp_path))
    check_head(in_float64(nlp), needs_windows=False)


def test_unsupported_conversions_raise(tiny, tmp_path):
    with pytest.raises(ValueError, match="no trained classifier"):
        from_transformers(tiny)
    with pytest.raises(ValueError, match=r"config.json not found"):
        from_transformers(tmp_path / "nothing")
    make_classifier("bert", tmp_path / "regression", id2label={0: "SCORE"}, problem_type="regression")
    with pytest.raises(ValueError, match="problem_type='regression'"):
        from_transformers(tmp_path / "regression")
    make_classifier("modernbert", tmp_path / "mean", classifier_pooling="mean")
    with pytest.raises(ValueError, match="classifier_pooling='mean' is not supported"):
        from_transformers(tmp_path / "mean")
    nlp = pipeline(tiny)
    with pytest.raises(ValueError, match="the pipeline has no TrfTextCat"):
        to_transformers(nlp, tmp_path / "back")
    head = nlp.add_pipe("trf_textcat")
    head.add_label("A"), head.add_label("B")
    with pytest.raises(ValueError, match=r"head='class_vector', which bert's .* configure it with head='native'"):
        to_transformers(nlp, tmp_path / "back")


@pytest.mark.parametrize("names", [{0: "A", 1: "A"}, {0: "A", 2: "B"}])
def test_each_class_needs_a_name_of_its_own(names, tmp_path):
    folder = make_classifier("bert", tmp_path, id2label=names)
    with pytest.raises(ValueError, match=r"id2label=.*: give each class from 0 to 1 a name of its own"):
        from_transformers(folder)
