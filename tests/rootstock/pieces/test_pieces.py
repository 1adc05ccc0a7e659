from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.alignment import entries
from rootstock.pieces.pieces import Pieces
from tests.rootstock.strategies import texts


def alignment(pieces: Pieces) -> np.ndarray:
    tokens, columns, weights = entries(pieces)
    dense = np.zeros((pieces.n_tokens, len(pieces.ids)), "float32")
    dense[tokens, columns] = weights
    return dense


@given(some=st.lists(texts, max_size=4))
def test_joined_documents_keep_to_themselves(tiny_nlp, some):
    """Every array is that of each document in turn, and no token has another document's piece."""
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    parts = [Pieces.of(doc) for doc in wordpiecer.pipe(map(tiny_nlp.make_doc, some))]
    joined, bounds = Pieces.join(parts)
    dense = alignment(joined)
    assert np.count_nonzero(dense) == sum(np.count_nonzero(alignment(part)) for part in parts)
    for i, part in enumerate(parts):
        tokens, pieces = (slice(*list(pairwise(at))[i]) for at in (bounds.tokens, bounds.pieces))
        np.testing.assert_array_equal(dense[tokens, pieces], alignment(part))
        np.testing.assert_array_equal(joined.ids[pieces], part.ids)


@given(some=st.lists(texts, max_size=4))
def test_what_is_split_again_is_as_it_was(tiny_nlp, some):
    parts = [Pieces.of(doc) for doc in tiny_nlp.get_pipe("trf_wordpiecer").pipe(map(tiny_nlp.make_doc, some))]
    joined, bounds = Pieces.join(parts)
    for part, back in zip(parts, joined.split(bounds), strict=True):
        for name, values in vars(part).items():
            np.testing.assert_array_equal(getattr(back, name), values, err_msg=name)
            assert getattr(back, name).dtype == "int32"
