from itertools import pairwise

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from transformers import AutoTokenizer

from rootstock.pieces import chunks
from rootstock.pieces.alignment import Tokens
from rootstock.pieces.chunks import Chunks
from tests.conftest import SHARED
from tests.rootstock.strategies import texts


@pytest.fixture(scope="module")
def tokenizer(minilm):
    found = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    found.no_truncation()
    found.no_padding()
    return found


@pytest.fixture(scope="module")
def remembering(tokenizer):
    """One for all examples: what it gives must not hang on what came before."""
    return Chunks(tokenizer)


NLP = spacy.blank("en")
WORDS = ["a", "b́", "́", "[MASK]", "[", "MASK]", "-", "İ", " ", "\t", "a b", " c", "the", "e" * 70]
written = st.lists(st.tuples(st.sampled_from(WORDS), st.booleans()), max_size=12).map(
    lambda tokens: Doc(NLP.vocab, words=[word for word, _ in tokens], spaces=[space for _, space in tokens])
)
documents = st.lists(st.one_of(texts.map(NLP.make_doc), written), min_size=1, max_size=5)


@given(documents, st.data())
def test_pieces_and_places_are_those_of_the_tokenizer(tokenizer, remembering, docs, data):
    """Of texts that end where a space follows, and where none does; some are empty."""
    inner = [data.draw(st.lists(st.integers(0, len(doc)), max_size=3).map(sorted)) for doc in docs]
    ends = [[*some, len(doc)] for some, doc in zip(inner, docs, strict=True)]
    found = encode(remembering, docs, ends)
    ids, spans, lengths, before = [], [], [], 0
    for doc, stops in zip(docs, ends, strict=True):
        for start, stop in pairwise([0, *stops]):
            one = tokenizer.encode(doc[start:stop].text, add_special_tokens=False)
            first = before + doc[start].idx if start < stop else 0
            ids += one.ids
            spans += [[first + a, first + b] for a, b in one.offsets]
            lengths.append(len(one))
        before += len(doc.text)
    assert found.ids.tolist() == ids
    assert found.spans.tolist() == spans
    assert found.lengths.tolist() == lengths


def encode(remembering, docs, ends=None):
    """ends: of the texts of each document, by its tokens; None for whole documents."""
    tokens = Tokens.of(docs)
    ends = [[len(doc)] for doc in docs] if ends is None else ends
    flat = [first + end for first, some in zip(tokens.docs[:-1], ends, strict=True) for end in some]
    return remembering.encode(docs, tokens, np.array(flat))


def test_a_chunk_is_cut_once(tokenizer):
    cut = []

    class Counting(Chunks):
        def _cut(self, keys, chunks):
            cut.extend(chunks)
            return super()._cut(keys, chunks)

    remembering = Counting(tokenizer)
    docs = [NLP.make_doc("the cat, and the dog"), NLP.make_doc("a cat, and a tac ,")]
    first = encode(remembering, docs)
    assert sorted(cut) == sorted(["the", "cat,", "and", "dog", "a", "tac", ","])
    again = encode(remembering, docs)
    assert len(cut) == 7
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_documents_of_several_vocabularies(tokenizer):
    docs = [spacy.blank("en").make_doc("alpha beta"), spacy.blank("de").make_doc("gamma alpha")]
    assert encode(Chunks(tokenizer), docs).ids.tolist() == [
        i for doc in docs for i in tokenizer.encode(doc.text, add_special_tokens=False).ids
    ]


def test_the_order_of_tokens_counts(tokenizer):
    docs = [Doc(NLP.vocab, words=words, spaces=[False] * len(words)) for words in (["ab", "cd"], ["cd", "ab"], ["ab"])]
    remembering = Chunks(tokenizer)
    encode(remembering, docs)
    assert len(remembering.known) == 3


def test_what_is_remembered_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "MOST", 10)
    remembering = Chunks(tokenizer)
    for number in range(100):
        doc = NLP.make_doc(f"word{number} {number} {'long' * 50}{number}")
        assert encode(remembering, [doc]).ids.tolist() == tokenizer.encode(doc.text, add_special_tokens=False).ids
        assert 2 <= len(remembering.known) <= 10 + 2, "two of the three are short enough"


@pytest.mark.parametrize(
    ("added", "exact"),
    [
        ({}, True),
        ({"content": "New York"}, False),
        ({"content": "\n"}, False),
        ({"content": "a\u00a0b"}, False),
        ({"content": "<x>", "lstrip": True}, False),
        ({"content": "<x>"}, True),
    ],
)
def test_added_tokens_that_reach_over_a_space_are_noticed(minilm, added, exact):
    from tokenizers import AddedToken

    tokenizer = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    if added:
        tokenizer.add_tokens([AddedToken(**added)])
    assert Chunks.are_exact(tokenizer) == exact


def test_another_normalizer_is_noticed(minilm):
    from tokenizers import normalizers

    tokenizer = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence([tokenizer.normalizer, normalizers.Prepend("_")])
    assert not Chunks.are_exact(tokenizer)


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the tokenizers of other families are not at hand")
@pytest.mark.parametrize(
    ("name", "exact"),
    [("bert-base-uncased", True), ("gpt2", False), ("roberta-base", False), ("xlnet-base-cased", False)],
)
def test_families(name, exact):
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / name)
    assert Chunks.are_exact(tokenizer.backend_tokenizer) == exact
