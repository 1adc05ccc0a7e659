import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from rootstock.pieces.alignment import align, alignment_entries, concat_ranges, pieces_of_tokens
from rootstock.pieces.pieces import Pieces
from tests import soak
from tests.conftest import SHARED
from tests.rootstock.strategies import texts


@st.composite
def spans(draw) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint tokens in order, and arbitrary pieces, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, 40), min_size=0, max_size=12, unique=True)))
    tokens = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    starts = draw(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=12))
    pieces = [(a, a + n) for a, n in starts]
    return np.array(tokens, int).reshape(-1, 2), np.array(pieces, int).reshape(-1, 2)


@soak.fuzz("alignment", many=20_000)
@given(spans())
def test_align_finds_exactly_the_overlaps(case):
    tokens, pieces = case
    expected = [
        (t, p)
        for t, (a, b) in enumerate(tokens.tolist())
        for p, (c, d) in enumerate(pieces.tolist())
        if max(a, c) < min(b, d)
    ]
    assert list(zip(*(x.tolist() for x in align(tokens, pieces)), strict=True)) == expected


def test_concat_ranges():
    assert concat_ranges(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


TOKENIZERS = SHARED / "tokenizers"
NAMES = sorted(p.name for p in TOKENIZERS.iterdir() if (p / "config.json").is_file()) if TOKENIZERS.is_dir() else []

WITH_OFFSETS = [
    "minilm",
    *(name for name in NAMES if not name.startswith("xlm-mlm")),
]  # XLM's tokenizer has no offsets


@pytest.fixture(scope="module", params=["minilm", *NAMES])
def wordpiecer_nlp(request, minilm) -> spacy.Language:
    """A pipeline with only `trf_wordpiecer`, for each available tokenizer."""
    nlp = spacy.blank("en")
    weights = minilm if request.param == "minilm" else TOKENIZERS / request.param
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights)})
    return nlp


@soak.fuzz("alignment", many=2000)
@given(texts)
def test_columns_sum_to_one(wordpiecer_nlp, text):
    doc = wordpiecer_nlp(text)
    pieces = Pieces.of(doc)
    tokens, columns, weights = alignment_entries(pieces)
    sums = np.bincount(columns, weights, minlength=len(pieces.ids))
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert len(doc) == pieces.n_tokens
    assert not len(tokens) or tokens.max() < len(doc)


@pytest.mark.parametrize("wordpiecer_nlp", WITH_OFFSETS, indirect=True)
@soak.fuzz("alignment", many=2000)
@given(texts)
def test_tokens_have_pieces_unless_their_characters_are_dropped(wordpiecer_nlp, text):
    wordpiecer = wordpiecer_nlp.get_pipe("trf_wordpiecer")
    doc = wordpiecer_nlp(text)
    spans = [
        (sent.start_char + a, sent.start_char + b)
        for sent in doc.sents
        for a, b in wordpiecer.tokenizer(sent.text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
    ]
    for token, pieces in zip(doc, pieces_of_tokens(Pieces.of(doc), 0, len(doc)), strict=True):
        overlaps = any(a < b and a < token.idx + len(token) and token.idx < b for a, b in spans)
        assert bool(pieces) == overlaps, token


def test_tokens_of_several_pieces_and_pieces_of_several_tokens(nlp):
    # "U.S." is one token of several pieces; "cannot" is one piece of two tokens.
    doc = nlp("The U.S. cannot")
    strings = doc._.trf_word_pieces_
    pieces = {token.text: [strings[i] for i in token._.trf_alignment] for token in doc}
    assert pieces == {"The": ["the"], "U.S.": ["u", ".", "s", "."], "can": ["cannot"], "not": ["cannot"]}
    shared = doc._.trf_last_hidden_state[strings.index("cannot")] / 2
    boundaries = (doc._.trf_last_hidden_state[0] + doc._.trf_last_hidden_state[-1]) / len(doc)
    np.testing.assert_allclose(doc[2].vector, shared + boundaries, atol=1e-5)
