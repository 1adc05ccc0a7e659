import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin

from rootstock.pieces.alignment import add_tensor_gradient, alignment_entries
from rootstock.pieces.pieces import ENTRY_UNITS, PIECES, Pieces
from tests import soak
from tests.rootstock.strategies import texts


def alignment(pieces: Pieces) -> np.ndarray:
    tokens, columns, weights = alignment_entries(pieces)
    dense = np.zeros((pieces.n_tokens, len(pieces.ids)), "float32")
    dense[tokens, columns] = weights
    return dense


@soak.fuzz("alignment", many=1000)
@given(batch=st.lists(texts, max_size=4))
def test_joined_documents_are_independent(tiny_nlp, batch):
    """The joined alignment is block-diagonal, with each document's alignment as a block."""
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    parts = [Pieces.of(doc) for doc in wordpiecer.pipe(map(tiny_nlp.make_doc, batch))]
    joined, bounds = Pieces.join(parts)
    dense = alignment(joined)
    assert np.count_nonzero(dense) == sum(np.count_nonzero(alignment(part)) for part in parts)
    for i, part in enumerate(parts):
        tokens, pieces = (slice(*list(pairwise(starts))[i]) for starts in (bounds.tokens, bounds.pieces))
        np.testing.assert_array_equal(dense[tokens, pieces], alignment(part))
        np.testing.assert_array_equal(joined.ids[pieces], part.ids)


@soak.fuzz("alignment", many=1000)
@given(batch=st.lists(texts, max_size=4))
def test_split_is_the_inverse_of_join(tiny_nlp, batch):
    parts = [Pieces.of(doc) for doc in tiny_nlp.get_pipe("trf_wordpiecer").pipe(map(tiny_nlp.make_doc, batch))]
    joined, bounds = Pieces.join(parts)
    for part, split in zip(parts, joined.split(bounds), strict=True):
        for name, values in vars(part).items():
            np.testing.assert_array_equal(getattr(split, name), values, err_msg=name)
            assert getattr(split, name).dtype == "int32"


def test_pieces_of_other_tokens_with_the_same_checksum(tiny_nlp):
    """The CRC-32 of these two is the same: as few as a hundred thousand words have such a pair."""
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    doc, other = (Doc(tiny_nlp.vocab, words=[word], spaces=[False]) for word in ("word22623", "word25720"))
    other.user_data.update(wordpiecer(doc).user_data)
    with pytest.raises(ValueError, match="other tokens than when its wordpieces were made"):
        Pieces.of(other)
    assert wordpiecer(other)._.trf_word_pieces_ == ["[CLS]", "word", "##25", "##7", "##20", "[SEP]"]


# What may stand in a file in the place of an array, or of the dict of all.
VALUES = st.one_of(
    st.sampled_from([None, True, "", b"", {}, [], [1], -1, 2**40, np.zeros(0, "int32"), np.zeros((1, 1), "int32")]),
    st.text(max_size=3),
)
NUMBERS = st.one_of(st.integers(-3, 40), st.sampled_from([-(2**31), 2**31 - 1, 30521, 30522]))


TYPES = ["int64", "int8", "uint32", ">i4", "float32", "bool", "U4"]


@st.composite
def forgeries(draw, stored: dict) -> object:
    """Stored pieces with one to three changes, which keep as much of their form as a liar would."""
    changes = {
        "number": lambda x: np.where(np.arange(x.size) == draw(st.integers(0, x.size)), draw(NUMBERS), x),
        "order": lambda x: x[draw(st.permutations(range(x.size)))],
        "shorter": lambda x: x[: draw(st.integers(0, x.size))],
        "longer": lambda x: np.append(x, draw(st.lists(NUMBERS, min_size=1, max_size=3))),
        "shape": lambda x: x[:, None],
    }
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from([*ENTRY_UNITS, "cut", "model", "tokens"]))
        old, change = stored.get(name), draw(st.sampled_from([*changes, "number", "type", "value", "drop", "all"]))
        if change == "all":
            return draw(VALUES)
        if change == "drop":
            stored = {other: value for other, value in stored.items() if other != name}
        elif change == "value" or not isinstance(old, np.ndarray) or (old.dtype, old.ndim) != (np.int32, 1):
            stored = {**stored, name: draw(VALUES)}
        elif change == "type":
            stored = {**stored, name: old.astype(draw(st.sampled_from(TYPES)))}
        else:
            stored = {**stored, name: changes[change](old).astype("int32")}
    return stored


REFUSED = "damaged or of another version|wordpieces for|other tokens|outside the transformer|longer windows or more"


@soak.fuzz("pieces in a DocBin", short=12, many=3000)
@given(text=texts.filter(len), data=st.data())
def test_forged_pieces_are_cut_again_refused_or_at_least_fit(tiny_nlp, text, data):
    """A document's pieces from a file of others: no crash, and nothing else changes."""
    wordpiecer, tok2vec = (tiny_nlp.get_pipe(name) for name in ("trf_wordpiecer", "trf_tok2vec"))
    docs = list(wordpiecer.pipe(map(tiny_nlp.make_doc, [text, "An innocent neighbour. It stays."])))
    expected = [tiny_nlp(doc.text) for doc in docs]
    docs[0].user_data[PIECES] = forged = data.draw(forgeries(docs[0].user_data[PIECES]))
    packed = DocBin(docs=docs, store_user_data=True).to_bytes()
    liar, neighbour = DocBin(store_user_data=True).from_bytes(packed).get_docs(tiny_nlp.vocab)
    for read in (
        lambda: tok2vec.set_annotations([liar, neighbour], tok2vec.predict([liar, neighbour])),
        lambda: [liar._.trf_alignment, add_tensor_gradient(liar, liar.tensor)],
    ):
        try:
            read()
        except ValueError as error:
            assert re.search(REFUSED, str(error)), error
            break
        assert liar.tensor.shape == expected[0].tensor.shape and np.isfinite(liar.tensor).all()
        np.testing.assert_allclose(neighbour.tensor, expected[1].tensor, atol=1e-5)
    liar, _ = DocBin(store_user_data=True).from_bytes(packed).get_docs(tiny_nlp.vocab)
    wordpiecer(liar)
    kept = {name: liar.user_data[PIECES][name] for name in ENTRY_UNITS}
    believed = isinstance(forged, dict) and all(np.array_equal(kept[name], forged.get(name)) for name in kept)
    if not believed:
        np.testing.assert_allclose(tok2vec(liar).tensor, expected[0].tensor, atol=1e-5)
