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
from rootstock.pieces.chunks import CachedTokenizer
from tests import soak
from tests.conftest import SHARED
from tests.rootstock.strategies import texts


@pytest.fixture(scope="module")
def tokenizer(minilm):
    tokenizer = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture(scope="module")
def cached_tokenizer(tokenizer):
    """One instance for all examples, because results must not depend on earlier calls."""
    return CachedTokenizer(tokenizer)


NLP = spacy.blank("en")
WORDS = ["a", "b́", "́", "[MASK]", "[", "MASK]", "-", "İ", " ", "\t", "a b", " c", "the", "e" * 70]
docs_of_words = st.lists(st.tuples(st.sampled_from(WORDS), st.booleans()), max_size=12).map(
    lambda tokens: Doc(NLP.vocab, words=[word for word, _ in tokens], spaces=[space for _, space in tokens])
)
documents = st.lists(st.one_of(texts.map(NLP.make_doc), docs_of_words), min_size=1, max_size=5)


@soak.fuzz("chunks of texts", many=5000)
@given(documents, st.data())
def test_pieces_and_spans_equal_the_tokenizers(tokenizer, cached_tokenizer, docs, data):
    """Texts end with or without a following space; some are empty."""
    inner = [data.draw(st.lists(st.integers(0, len(doc)), max_size=3).map(sorted)) for doc in docs]
    ends = [[*doc_ends, len(doc)] for doc_ends, doc in zip(inner, docs, strict=True)]
    actual = encode(cached_tokenizer, docs, ends)
    ids, spans, lengths, doc_start = [], [], [], 0
    for doc, stops in zip(docs, ends, strict=True):
        for start, stop in pairwise([0, *stops]):
            encoding = tokenizer.encode(doc[start:stop].text, add_special_tokens=False)
            first = doc_start + doc[start].idx if start < stop else 0
            ids += encoding.ids
            spans += [[first + a, first + b] for a, b in encoding.offsets]
            lengths.append(len(encoding))
        doc_start += len(doc.text)
    assert actual.ids.tolist() == ids
    assert actual.spans.tolist() == spans
    assert actual.lengths.tolist() == lengths


def encode(cached_tokenizer, docs, ends=None):
    """ends: for each document the tokens at which its texts end; None: one text per document."""
    tokens = Tokens.of(docs)
    ends = [[len(doc)] for doc in docs] if ends is None else ends
    flat = [first + end for first, doc_ends in zip(tokens.doc_bounds[:-1], ends, strict=True) for end in doc_ends]
    return cached_tokenizer.encode(docs, tokens, np.array(flat))


def test_each_chunk_is_tokenized_once(tokenizer):
    tokenized = []

    class RecordingTokenizer(CachedTokenizer):
        def _tokenize(self, keys, chunks):
            tokenized.extend(chunks)
            return super()._tokenize(keys, chunks)

    cached_tokenizer = RecordingTokenizer(tokenizer)
    docs = [NLP.make_doc("the cat, and the dog"), NLP.make_doc("a cat, and a tac ,")]
    first = encode(cached_tokenizer, docs)
    assert sorted(tokenized) == sorted(["the", "cat,", "and", "dog", "a", "tac", ","])
    second = encode(cached_tokenizer, docs)
    assert len(tokenized) == 7
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_documents_with_different_vocabularies(tokenizer):
    docs = [spacy.blank("en").make_doc("alpha beta"), spacy.blank("de").make_doc("gamma alpha")]
    assert encode(CachedTokenizer(tokenizer), docs).ids.tolist() == [
        i for doc in docs for i in tokenizer.encode(doc.text, add_special_tokens=False).ids
    ]


def test_the_cache_key_depends_on_the_order_of_tokens(tokenizer):
    docs = [Doc(NLP.vocab, words=words, spaces=[False] * len(words)) for words in (["ab", "cd"], ["cd", "ab"], ["ab"])]
    cached_tokenizer = CachedTokenizer(tokenizer)
    encode(cached_tokenizer, docs)
    assert len(cached_tokenizer.cache) == 3


# Sums of their tokens' hashes with the powers of 0x9E3779B97F4A7C15 as factors, once the key, are equal modulo 2**64.
COLLIDING = (
    "([((([(((((([((((((((((((((((((((((([[([([((",
    "[(([[([[[(([((([([[((([((([[[([([[([(([(((((",
)


def characters(text):
    return Doc(NLP.vocab, words=list(text), spaces=[False] * len(text))


@pytest.mark.parametrize("make_doc", [NLP.make_doc, characters])
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("long", [1, 8], ids=["remembered", "too long to remember"])
def test_no_text_can_be_made_to_get_the_pieces_of_another(tokenizer, make_doc, together, long):
    docs = [make_doc(text * long) for text in COLLIDING]
    cached_tokenizer = CachedTokenizer(tokenizer)
    actual = [encode(cached_tokenizer, batch).ids for batch in ([docs] if together else [[doc] for doc in docs])]
    expected = [tokenizer.encode(doc.text, add_special_tokens=False).ids for doc in docs]
    assert np.concatenate(actual).tolist() == [i for ids in expected for i in ids]


def test_cache_size_is_limited(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_CACHED_CHUNKS", 10)
    cached_tokenizer = CachedTokenizer(tokenizer)
    for number in range(100):
        doc = NLP.make_doc(f"word{number} {number} {'long' * 50}{number}")
        assert encode(cached_tokenizer, [doc]).ids.tolist() == tokenizer.encode(doc.text, add_special_tokens=False).ids
        assert 2 <= len(cached_tokenizer.cache) <= 10 + 2, "two of the three chunks are short enough for the cache"


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
def test_added_tokens_that_cross_a_space_are_not_exact(minilm, added, exact):
    from tokenizers import AddedToken

    tokenizer = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    if added:
        tokenizer.add_tokens([AddedToken(**added)])
    assert CachedTokenizer.is_exact(tokenizer) == exact


def test_other_normalizers_are_not_exact(minilm):
    from tokenizers import normalizers

    tokenizer = AutoTokenizer.from_pretrained(minilm).backend_tokenizer
    tokenizer.normalizer = normalizers.Sequence([tokenizer.normalizer, normalizers.Prepend("_")])
    assert not CachedTokenizer.is_exact(tokenizer)


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason=f"no tokenizers in {SHARED}/tokenizers")
@pytest.mark.parametrize(
    ("name", "exact"),
    [("bert-base-uncased", True), ("gpt2", False), ("roberta-base", False), ("xlnet-base-cased", False)],
)
def test_exact_families(name, exact):
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "tokenizers" / name)
    assert CachedTokenizer.is_exact(tokenizer.backend_tokenizer) == exact
