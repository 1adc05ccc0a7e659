"""What a pipeline says about a document, as values for JSON: labels with probabilities, entities, spans, tags."""

from collections.abc import Callable
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span

MOST = 100  # labels of a document, the most probable: with all of 5,000, its line of JSON would have 270 kB
DIGITS = 6  # of a probability

Outcome = dict[str, Any]
Read = Callable[[Doc], Outcome]


def reader(nlp: Language) -> Read:
    """A function from a document of this pipeline to an outcome, whose keys depend on what its components set.

    - `doc.cats`: `predicted`, a label (None for a document without tokens), or a list if labels are not exclusive;
      `scores`, the probability of each label, or of the MOST most probable; `margin`, by how much the best is above the
      next, or, if labels are not exclusive, how far the probability nearest to its threshold is from it.
    - `doc.ents`: `entities`; `doc.spans`: `spans`, by their key. Each is a list of dicts with `start` and `end` (in
      characters), `label` and `text`.
    - `token.tag`: `tags`, a list of dicts with `text` and `tag`.

    The pipeline may have other components than this library's. Raises ValueError if none sets any of these.
    """
    setters = _setters(nlp)
    reads = [make(nlp, setters[attribute]) for attribute, make in READERS.items() if attribute in setters]
    if not reads:
        raise ValueError(f"the pipeline ({', '.join(nlp.pipe_names)}) sets none of {', '.join(READERS)}")
    return lambda doc: {key: value for read in reads for key, value in read(doc).items()}


def classifier(nlp: Language) -> Any:
    """The component that sets `doc.cats`."""
    return nlp.get_pipe(_setters(nlp)["doc.cats"])


def _setters(nlp: Language) -> dict[str, str]:
    """The component that sets each attribute: the last one that does."""
    return {attribute: name for name in nlp.pipe_names for attribute in nlp.get_pipe_meta(name).assigns}


def threshold_of(pipe: Any, label: str) -> float:
    """From which probability a classifier, of this library or spaCy's, predicts a label if they are not exclusive."""
    return pipe.threshold_of(label) if hasattr(pipe, "threshold_of") else pipe.cfg["threshold"]


def _cats(nlp: Language, name: str) -> Read:
    pipe = nlp.get_pipe(name)
    exclusive = getattr(pipe, "exclusive_classes", nlp.get_pipe_meta(name).factory != "textcat_multilabel")

    def read(doc: Doc) -> Outcome:
        scores = {label: doc.cats[label] for label in pipe.labels}
        ranked = sorted(scores, key=lambda label: -scores[label])
        if exclusive:
            predicted: str | list[str] | None = ranked[0] if scores[ranked[0]] else None
            margin = scores[ranked[0]] - (scores[ranked[1]] if len(ranked) > 1 else 0.0)
        else:
            above = {label: p - threshold_of(pipe, label) for label, p in scores.items()}
            predicted = [label for label in above if above[label] >= 0]
            margin = min(map(abs, above.values()))
        listed = {label: round(scores[label], DIGITS) for label in ranked[:MOST]}
        return {"predicted": predicted, "scores": listed, "margin": round(margin, DIGITS)}

    return read


def _entities(nlp: Language, name: str) -> Read:
    return lambda doc: {"entities": [_span(span) for span in doc.ents]}


def _spans(nlp: Language, name: str) -> Read:
    return lambda doc: {"spans": {key: [_span(span) for span in spans] for key, spans in doc.spans.items()}}


def _span(span: Span) -> dict[str, Any]:
    return {"start": span.start_char, "end": span.end_char, "label": span.label_, "text": span.text}


def _tags(nlp: Language, name: str) -> Read:
    return lambda doc: {"tags": [{"text": token.text, "tag": token.tag_} for token in doc]}


READERS = {"doc.cats": _cats, "doc.ents": _entities, "doc.spans": _spans, "token.tag": _tags}
