import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rootstock import chunks
from rootstock.chunks import Chunks

from ..conftest import SHARED
from .strategies import texts


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


SPACED = st.one_of(
    texts, st.lists(st.sampled_from(["", " ", "a", "b́", "́", "[MASK]", "[", "MASK]", "\t", "-", "İ"])).map(" ".join)
)


@given(st.lists(SPACED, max_size=5))
def test_pieces_and_places_are_those_of_the_tokenizer(tokenizer, remembering, some):
    found, wanted = remembering.encode(some), tokenizer.encode_batch(some, add_special_tokens=False)
    assert found.ids.tolist() == [i for one in wanted for i in one.ids]
    assert found.spans.tolist() == [list(span) for one in wanted for span in one.offsets]
    assert found.lengths.tolist() == [len(one) for one in wanted]


def test_a_chunk_is_cut_once(tokenizer):
    cut = []

    class Counting(Chunks):
        def _cut(self, chunks):
            cut.extend(chunks)
            return super()._cut(chunks)

    remembering = Counting(tokenizer)
    first = remembering.encode(["the cat and the dog", "a cat"])
    assert cut == ["the", "cat", "and", "dog", "a"]
    again = remembering.encode(["the cat and the dog", "a cat"])
    assert len(cut) == 5
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))


def test_what_is_remembered_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "MOST", 10)
    remembering = Chunks(tokenizer)
    for number in range(100):
        text = f"word{number} {number} {'long' * 50}{number}"
        assert remembering.encode([text]).ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
        assert len(remembering.known) <= 10 + 2 and not any(len(chunk) > chunks.LONG for chunk in remembering.known)


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
