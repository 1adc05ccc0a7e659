"""The extension attributes `._.trf_*` of Doc, Span and Token, and the hooks of `.vector` and `.similarity`."""

from functools import partial
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from spacy.tokens import Doc, Span, Token
from thinc.api import get_array_module

from .pieces import alignment
from .pieces.pieces import Pieces

# Keys in doc.user_data.
OUTPUTS = "trf_outputs"  # the model's outputs, by their names in Transformers
SECOND_START = "trf_second_start"  # the character at which the second text of a pair begins
ROWS = "trf_rows"  # precomputed features: the rows that a head classifies, from a frozen transformer
AUTHOR = "trf_author"  # the name of the component whose outputs these are
GRADIENTS = "trf_gradients"  # the gradients of the outputs, accumulated by the heads


def register() -> None:
    """Register all extension attributes, unless they already are."""
    if Doc.has_extension("trf_word_pieces"):
        return
    # Functions of this module, no lambdas: spaCy pickles the getters for processes that are not forked.
    Doc.set_extension("trf_second_text", default=None)  # index of the token at which a pair's second text begins
    Doc.set_extension("trf_word_pieces", getter=_ids)
    Doc.set_extension("trf_word_pieces_", getter=_strings)
    Doc.set_extension("trf_alignment", getter=_alignment)
    Doc.set_extension("trf_outputs", getter=_outputs)
    for name, key in OUTPUT_NAMES.items():
        Doc.set_extension(name, getter=partial(_output, key=key))
    for name, key in GRADIENT_NAMES.items():
        Doc.set_extension(name, getter=partial(_gradient, key=key), setter=partial(_set_gradient, key=key))
    for cls in (Span, Token):
        cls.set_extension("trf_word_pieces", getter=_ids_of_part)
        cls.set_extension("trf_word_pieces_", getter=_strings_of_part)
        cls.set_extension("trf_last_hidden_state", getter=_part_of_last_hidden_state)
        cls.set_extension("trf_alignment", getter=_alignment)


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


def tensor(doc: Doc) -> Any:
    """The transformer's rows for the tokens of a Doc, whatever else writes `doc.tensor`; None without its output."""
    return doc.user_data[OUTPUTS].get("tensor", doc.tensor) if OUTPUTS in doc.user_data else None


def has_only_features(doc: Doc) -> bool:
    """Whether a document has precomputed features and no tokens."""
    return ROWS in doc.user_data and not len(doc)


class PieceStrings:
    """The hook behind `doc._.trf_word_pieces_`.

    The tokenizer takes megabytes, so it is not pickled with a Doc: a copy of the Doc in the same process has the same
    hook, a Doc in another process has none.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        """tokenizer: of Transformers; None: there are no strings."""
        self.tokenizer = tokenizer
        self.key = uuid4().hex
        _HOOKS[self.key] = self

    def __call__(self, doc: Doc) -> list[str]:
        if self.tokenizer is None:
            raise ValueError(
                "this Doc has no strings of its pieces: they come from the tokenizer, which is not serialized with a "
                "Doc. Pass it through 'trf_wordpiecer' (again, if it was loaded or comes from another process)"
            )
        return self.tokenizer.convert_ids_to_tokens(Pieces.of(doc, aligned=False).ids.tolist())

    def __reduce__(self) -> Any:
        return _find_hook, (self.key,)


_HOOKS: WeakValueDictionary[str, PieceStrings] = WeakValueDictionary()  # of this process


def _find_hook(key: str) -> PieceStrings:
    return _HOOKS.get(key) or PieceStrings()


def _ids(doc: Doc) -> Any:
    return Pieces.of(doc, aligned=False).ids


def _ids_of_part(part: Span | Token) -> Any:
    return _ids(part.doc)[_indices(part)]


def _alignment(part: Doc | Span | Token) -> list[Any]:
    """For each token the indices of its pieces; for a Token only its own."""
    if isinstance(part, Doc):
        return alignment.pieces_of_tokens(Pieces.of(part), 0, len(part))
    pieces = Pieces.of(part.doc)
    if isinstance(part, Span):
        return alignment.pieces_of_tokens(pieces, part.start, part.end)
    return alignment.pieces_of_tokens(pieces, part.i, part.i + 1)[0]


def _strings(doc: Doc) -> list[str]:
    return (doc.user_hooks.get("trf_word_pieces_") or PieceStrings())(doc)


def _strings_of_part(part: Span | Token) -> list[str]:
    strings = _strings(part.doc)
    return [strings[i] for i in _indices(part)]


def _output(doc: Doc, key: str) -> Any:
    return doc.user_data.get(OUTPUTS, {}).get(key)


def _outputs(doc: Doc) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    outputs = doc.user_data.get(OUTPUTS, {})
    ours = {"tensor", "class_states"}
    return BaseModelOutputWithPooling(**{name: value for name, value in outputs.items() if name not in ours})


def _gradient(doc: Doc, key: str) -> Any:
    """The gradient of an output; initially zeros."""
    output = doc.user_data.get(OUTPUTS, {}).get(key)
    if output is None:
        return None
    gradients = doc.user_data.setdefault(GRADIENTS, {})
    if key not in gradients:
        gradients[key] = get_array_module(output).zeros_like(output)
    return gradients[key]


def _set_gradient(doc: Doc, value: Any, key: str) -> None:
    doc.user_data.setdefault(GRADIENTS, {})[key] = value


def _indices(part: Span | Token) -> list[int]:
    """The indices of the pieces of a Span or Token, sorted, without duplicates."""
    aligned = part._.trf_alignment
    return aligned if isinstance(part, Token) else sorted({piece for pieces in aligned for piece in pieces})


def _part_of_last_hidden_state(part: Span | Token) -> Any:
    states = part.doc._.trf_last_hidden_state
    return None if states is None else states[_indices(part)]


def hook_vectors(doc: Doc) -> None:
    """Hook `.vector` (the mean of the transformer's rows) and `.similarity` (the cosine), both as in spaCy."""
    for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
        hooks["has_vector"] = _has_vector
        hooks["vector"] = _vector
        hooks["similarity"] = _similarity


def _rows(part: Doc | Span | Token) -> Any:
    doc = part if isinstance(part, Doc) else part.doc
    rows = tensor(doc)
    rows = doc.tensor if rows is None else rows
    if isinstance(part, Doc):
        return rows
    return rows[part.start : part.end] if isinstance(part, Span) else rows[part.i : part.i + 1]


def _has_vector(part: Doc | Span | Token) -> bool:
    return _rows(part).size > 0


def _vector(part: Doc | Span | Token) -> Any:
    rows = _rows(part)
    return rows.mean(axis=0) if len(rows) else get_array_module(rows).zeros(rows.shape[1:], dtype="f")


def _similarity(part: Doc | Span | Token, other: Any) -> float:
    """The cosine; 0 if either has no vector."""
    norms = part.vector_norm * other.vector_norm
    return float((part.vector * other.vector).sum() / norms) if norms else 0.0
