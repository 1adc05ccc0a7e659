import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.alignment import align, counted, entries, pieces_of_tokens
from rootstock.pieces.pieces import Pieces
from tests.conftest import SHARED
from tests.rootstock.strategies import texts


@st.composite
def spans(draw) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint tokens in order, and pieces anywhere, empty ones among them."""
    cuts = sorted(draw(st.lists(st.integers(0, 40), min_size=0, max_size=12, unique=True)))
    tokens = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    starts = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=12))
    pieces = [(a, a + n) for a, n in starts]
    return np.array(tokens, int).reshape(-1, 2), np.array(pieces, int).reshape(-1, 2)


@given(spans())
def test_align_pairs_exactly_the_overlaps(case):
    tokens, pieces = case
    expected = [
        (t, p)
        for t, (a, b) in enumerate(tokens.tolist())
        for p, (c, d) in enumerate(pieces.tolist())
        if max(a, c) < min(b, d)
    ]
    assert list(zip(*(x.tolist() for x in align(tokens, pieces)), strict=True)) == expected


def test_counted():
    assert counted(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


TOKENIZERS = SHARED / "tokenizers"
NAMES = sorted(p.name for p in TOKENIZERS.iterdir() if (p / "config.json").is_file()) if TOKENIZERS.is_dir() else []

FAST = [
    "minilm",
    *(name for name in NAMES if not name.startswith("xlm-mlm")),
]  # XLM's does not say where its pieces stand


@pytest.fixture(scope="module", params=["minilm", *NAMES])
def cutting_nlp(request, minilm) -> spacy.Language:
    """Pieces without a transformer, by each of the tokenizers at hand."""
    nlp = spacy.blank("en")
    weights = minilm if request.param == "minilm" else TOKENIZERS / request.param
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights)})
    return nlp


@given(texts)
def test_columns_sum_to_one(cutting_nlp, text):
    doc = cutting_nlp(text)
    pieces = Pieces.of(doc)
    tokens, columns, weights = entries(pieces)
    sums = np.bincount(columns, weights, minlength=len(pieces.ids))
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert len(doc) == pieces.n_tokens
    assert not len(tokens) or tokens.max() < len(doc)


@pytest.mark.parametrize("cutting_nlp", FAST, indirect=True)
@given(texts)
def test_every_token_whose_characters_are_kept_has_pieces(cutting_nlp, text):
    wordpiecer = cutting_nlp.get_pipe("trf_wordpiecer")
    doc = cutting_nlp(text)
    spans = [
        (sent.start_char + a, sent.start_char + b)
        for sent in doc.sents
        for a, b in wordpiecer.tokenizer(sent.text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
    ]
    for token, pieces in zip(doc, pieces_of_tokens(Pieces.of(doc), 0, len(doc)), strict=True):
        kept = any(a < b and a < token.idx + len(token) and token.idx < b for a, b in spans)
        assert bool(pieces) == kept, token


def test_many_to_many(nlp):
    # "U.S." is one token of several pieces; "cannot" is two tokens in one piece.
    doc = nlp("The U.S. cannot")
    strings = doc._.trf_word_pieces_
    named = {token.text: [strings[i] for i in token._.trf_alignment] for token in doc}
    assert named == {"The": ["the"], "U.S.": ["u", ".", "s", "."], "can": ["cannot"], "not": ["cannot"]}
    shared = doc._.trf_last_hidden_state[strings.index("cannot")] / 2
    edges = (doc._.trf_last_hidden_state[0] + doc._.trf_last_hidden_state[-1]) / len(doc)
    np.testing.assert_allclose(doc[2].vector, shared + edges, atol=1e-5)
