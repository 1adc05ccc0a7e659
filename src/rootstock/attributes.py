"""The extension attributes `._.trf_*` of Doc, Span and Token, and the hooks of `.vector` and `.similarity`."""

from typing import Any

from spacy.tokens import Doc, Span, Token
from thinc.api import get_array_module

from .pieces import alignment
from .pieces.pieces import Pieces

# Keys in doc.user_data.
OUTPUTS = "trf_outputs"  # the model's outputs, by their names in Transformers
ROWS = "trf_rows"  # precomputed features: the rows that a head classifies, from a frozen transformer
GRADIENTS = "trf_gradients"  # the gradients of the outputs, accumulated by the heads


def register() -> None:
    """Register all extension attributes, unless they already are."""
    if Doc.has_extension("trf_word_pieces"):
        return
    Doc.set_extension("trf_second_text", default=None)  # index of the token at which a pair's second text begins
    Doc.set_extension("trf_word_pieces", getter=lambda doc: Pieces.of(doc).ids)
    Doc.set_extension("trf_word_pieces_", getter=_strings)
    Doc.set_extension("trf_alignment", getter=lambda doc: _alignment(doc, 0, len(doc)))
    Doc.set_extension("trf_outputs", getter=_outputs)
    for name, key in OUTPUT_NAMES.items():
        Doc.set_extension(name, getter=lambda doc, key=key: doc.user_data.get(OUTPUTS, {}).get(key))
    for name, key in GRADIENT_NAMES.items():
        Doc.set_extension(name, getter=lambda doc, key=key: _gradient(doc, key), setter=_gradient_setter(key))
    for cls in (Span, Token):
        cls.set_extension("trf_word_pieces", getter=lambda part: part.doc._.trf_word_pieces[_indices(part)])
        cls.set_extension("trf_word_pieces_", getter=_strings_of_part)
        cls.set_extension("trf_last_hidden_state", getter=_part_of_last_hidden_state)
    Span.set_extension("trf_alignment", getter=lambda span: _alignment(span.doc, span.start, span.end))
    Token.set_extension("trf_alignment", getter=lambda token: _alignment(token.doc, token.i, token.i + 1)[0])


OUTPUT_NAMES = {
    "trf_last_hidden_state": "last_hidden_state",
    "trf_pooler_output": "pooler_output",
    "trf_class_states": "class_states",  # (n_windows, width): in training, if heads read only class pieces
    "trf_all_hidden_states": "hidden_states",
    "trf_all_attentions": "attentions",
}
GRADIENT_NAMES = {
    "trf_d_last_hidden_state": "last_hidden_state",
    "trf_d_pooler_output": "pooler_output",
    "trf_d_class_states": "class_states",
}


def has_only_features(doc: Doc) -> bool:
    """Whether a document has precomputed features and no tokens."""
    return ROWS in doc.user_data and not len(doc)


def _alignment(doc: Doc, start: int, end: int) -> list[list[int]]:
    return alignment.pieces_of_tokens(Pieces.of(doc), start, end)


def _strings(doc: Doc) -> list[str]:
    if "trf_word_pieces_" not in doc.user_hooks:
        raise ValueError(
            "this Doc has no strings of its pieces: they come from the tokenizer, which is not serialized with a Doc. "
            "Pass it through 'trf_wordpiecer' (again, if it was loaded or comes from another process)"
        )
    return doc.user_hooks["trf_word_pieces_"](doc)


def _strings_of_part(part: Span | Token) -> list[str]:
    strings = _strings(part.doc)
    return [strings[i] for i in _indices(part)]


def _outputs(doc: Doc) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    outputs = doc.user_data.get(OUTPUTS, {})
    return BaseModelOutputWithPooling(**{name: value for name, value in outputs.items() if name != "class_states"})


def _gradient(doc: Doc, key: str) -> Any:
    """The gradient of an output; initially zeros."""
    output = doc.user_data.get(OUTPUTS, {}).get(key)
    if output is None:
        return None
    gradients = doc.user_data.setdefault(GRADIENTS, {})
    if key not in gradients:
        gradients[key] = get_array_module(output).zeros_like(output)
    return gradients[key]


def _gradient_setter(key: str):
    def set_gradient(doc: Doc, value: Any) -> None:
        doc.user_data.setdefault(GRADIENTS, {})[key] = value

    return set_gradient


def _indices(part: Span | Token) -> list[int]:
    """The indices of the pieces of a Span or Token, sorted, without duplicates."""
    aligned = part._.trf_alignment
    return aligned if isinstance(part, Token) else sorted({piece for pieces in aligned for piece in pieces})


def _part_of_last_hidden_state(part: Span | Token) -> Any:
    states = part.doc._.trf_last_hidden_state
    return None if states is None else states[_indices(part)]


def hook_vectors(doc: Doc) -> None:
    """Hook `.vector` (the mean of rows of `doc.tensor`) and `.similarity` (the cosine), both as in spaCy."""
    for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
        hooks["has_vector"] = _has_vector
        hooks["vector"] = _vector
        hooks["similarity"] = _similarity


def _rows(part: Doc | Span | Token) -> Any:
    if isinstance(part, Doc):
        return part.tensor
    if isinstance(part, Span):
        return part.doc.tensor[part.start : part.end]
    return part.doc.tensor[part.i : part.i + 1]


def _has_vector(part: Doc | Span | Token) -> bool:
    return _rows(part).size > 0


def _vector(part: Doc | Span | Token) -> Any:
    rows = _rows(part)
    return rows.mean(axis=0) if len(rows) else get_array_module(rows).zeros(rows.shape[1:], dtype="f")


def _similarity(part: Doc | Span | Token, other: Any) -> float:
    """The cosine; 0 if either has no vector."""
    norms = part.vector_norm * other.vector_norm
    return float((part.vector * other.vector).sum() / norms) if norms else 0.0
