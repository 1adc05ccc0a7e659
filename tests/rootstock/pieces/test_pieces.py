from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.alignment import alignment_entries
from rootstock.pieces.pieces import Pieces
from tests.rootstock.strategies import texts


def alignment(pieces: Pieces) -> np.ndarray:
    tokens, columns, weights = alignment_entries(pieces)
    dense = np.zeros((pieces.n_tokens, len(pieces.ids)), "float32")
    dense[tokens, columns] = weights
    return dense


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


@given(batch=st.lists(texts, max_size=4))
def test_split_is_the_inverse_of_join(tiny_nlp, batch):
    parts = [Pieces.of(doc) for doc in tiny_nlp.get_pipe("trf_wordpiecer").pipe(map(tiny_nlp.make_doc, batch))]
    joined, bounds = Pieces.join(parts)
    for part, split in zip(parts, joined.split(bounds), strict=True):
        for name, values in vars(part).items():
            np.testing.assert_array_equal(getattr(split, name), values, err_msg=name)
            assert getattr(split, name).dtype == "int32"
