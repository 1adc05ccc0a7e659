"""What is said about a document, for this library's components and for spaCy's own."""

import json

import pytest
import spacy
from spacy.training import Example

from rootstock.outcomes import MOST, reader
from tests.conftest import pipeline


def textcat(nlp, factory, labels, **config):
    pipe = nlp.add_pipe(factory, config=config)
    for label in labels:
        pipe.add_label(label)
    if not factory.startswith("trf"):
        examples = [Example.from_dict(nlp.make_doc("x"), {"cats": dict.fromkeys(labels, 1.0)})]
        if factory == "textcat":
            examples = [
                Example.from_dict(nlp.make_doc(label), {"cats": {k: float(k == label) for k in labels}})
                for label in labels
            ]
        nlp.initialize(lambda: examples)
    return pipe


@pytest.mark.parametrize("factory", ["textcat", "trf_textcat"])
def test_one_label(tiny, factory):
    nlp = pipeline(tiny) if factory == "trf_textcat" else spacy.blank("en")
    textcat(nlp, factory, ["A", "B", "C"])
    doc = nlp("One text.")
    outcome = reader(nlp)(doc)
    assert outcome.keys() == {"predicted", "scores", "margin"}
    first, second, _ = sorted(doc.cats.values(), reverse=True)
    assert outcome["margin"] == pytest.approx(first - second, abs=1e-6)
    assert outcome["margin"] > 0 or factory == "textcat"  # spaCy's begins with equal scores
    assert outcome["predicted"] == max(doc.cats, key=doc.cats.__getitem__) == next(iter(outcome["scores"]))
    assert outcome["scores"] == pytest.approx(doc.cats, abs=1e-6)
    assert [*outcome["scores"].values()] == sorted(outcome["scores"].values(), reverse=True)
    assert json.loads(json.dumps(outcome)) == outcome


@pytest.mark.parametrize("factory", ["textcat_multilabel", "trf_textcat"])
def test_several_labels(tiny, factory):
    ours = factory == "trf_textcat"
    nlp = pipeline(tiny) if ours else spacy.blank("en")
    pipe = textcat(nlp, factory, ["A", "B", "C"], threshold=0.0, **({"exclusive_classes": False} if ours else {}))
    doc = nlp("One text.")
    assert reader(nlp)(doc)["predicted"] == ["A", "B", "C"]
    pipe.cfg["threshold"] = 1.0
    assert reader(nlp)(doc)["predicted"] == []
    if ours:
        pipe.thresholds["B"] = 0.0
        pipe.thresholds["C"] = doc.cats["C"] + 0.01
        outcome = reader(nlp)(doc)
        assert outcome["predicted"] == ["B"] and outcome["margin"] == pytest.approx(0.01, abs=1e-6)


def test_a_document_without_tokens_has_no_label(tiny):
    nlp = pipeline(tiny)
    textcat(nlp, "trf_textcat", ["A", "B"])
    assert reader(nlp)(nlp("")) == {"predicted": None, "scores": {"A": 0.0, "B": 0.0}, "margin": 0.0}


def test_few_of_thousands_of_labels_are_listed(tiny):
    nlp = pipeline(tiny)
    textcat(nlp, "trf_textcat", [f"L{i}" for i in range(500)])
    doc = nlp("One text.")
    outcome = reader(nlp)(doc)
    assert len(outcome["scores"]) == MOST and min(outcome["scores"].values()) >= sorted(doc.cats.values())[-MOST] - 1e-6


def test_entities_spans_and_tags():
    nlp = spacy.blank("en")
    nlp.add_pipe("tagger").add_label("NN")
    nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("a"), {"tags": ["NN"]})])
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "CITY", "pattern": "New York"}])
    nlp.add_pipe("span_ruler").add_patterns([{"label": "X", "pattern": "is"}, {"label": "Y", "pattern": "New"}])
    text = "Is New\nYork or New York a city? It is."
    outcome = reader(nlp)(nlp(text))
    [city] = outcome["entities"]
    assert city == {"start": 15, "end": 23, "label": "CITY", "text": "New York"} and text[15:23] == "New York"
    assert [(span["label"], span["start"]) for span in outcome["spans"]["ruler"]] == [("Y", 3), ("Y", 15), ("X", 35)]
    assert [tag["tag"] for tag in outcome["tags"]] == ["NN"] * len(nlp(text))


def test_a_pipeline_that_says_nothing_is_refused(tiny_nlp):
    with pytest.raises(ValueError, match=r"sets none of doc.cats"):
        reader(tiny_nlp)
