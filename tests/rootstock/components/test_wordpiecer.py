import warnings
from itertools import pairwise

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from rootstock.pieces.pieces import Pieces
from tests.conftest import pipeline
from tests.rootstock.strategies import texts


def test_boundary_pieces_surround_each_sentence(nlp):
    doc = nlp("Laura flew to Silicon Valley. It rained.")
    expected = "[CLS] laura flew to silicon valley . [SEP] [CLS] it rained . [SEP]"
    assert doc._.trf_word_pieces_ == expected.split()
    assert doc._.trf_word_pieces.tolist() == nlp.get_pipe("trf_wordpiecer").tokenizer.convert_tokens_to_ids(
        expected.split()
    )
    assert doc._.trf_alignment[0] == [1] and doc[6]._.trf_alignment == [9]
    sentence = list(doc.sents)[1]
    assert sentence._.trf_word_pieces_ == ["it", "rained", "."]
    assert sentence._.trf_word_pieces.tolist() == doc._.trf_word_pieces[9:12].tolist()
    assert doc[0]._.trf_word_pieces_ == ["laura"]


def test_sentences_of_an_earlier_component_are_kept(nlp):
    words = ["One", "two", ".", "Three"]
    doc = Doc(nlp.vocab, words=words, sent_starts=[True, False, False, False])
    assert Pieces.of(nlp.get_pipe("trf_wordpiecer")(doc)).n_sentences == 1
    assert Pieces.of(nlp("One two . Three")).n_sentences == 2


@given(texts)
def test_pieces_equal_the_tokenizers(tiny_nlp, text):
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    doc = wordpiecer(tiny_nlp.make_doc(text))
    pieces = Pieces.of(doc)
    ends = np.cumsum(pieces.sentence_pieces)
    for sent, end, n in zip(doc.sents, ends, pieces.sentence_pieces, strict=True):
        ids = wordpiecer.tokenizer(sent.text)["input_ids"]
        if len(ids) <= wordpiecer.max_pieces:
            assert pieces.ids[end - n : end].tolist() == ids


def test_a_loaded_component_caches_words(nlp, minilm):
    for wordpiecer in (
        nlp.get_pipe("trf_wordpiecer"),
        pipeline(minilm).from_bytes(nlp.to_bytes()).get_pipe("trf_wordpiecer"),
    ):
        n_cached = len(wordpiecer.cached_tokenizer.cache)
        for _ in range(2):
            wordpiecer(nlp.make_doc("Quixotic remarks."))
            assert len(wordpiecer.cached_tokenizer.cache) == n_cached + 2


@pytest.mark.parametrize("n_words", [31, 70, 200])
def test_windows_cover_a_long_sentence_and_overlap(tiny_nlp, n_words):
    doc = tiny_nlp(" ".join(["word"] * n_words))
    pieces = Pieces.of(doc)
    assert pieces.window_lengths.max() <= 32
    assert len(pieces.window_lengths) > 1
    starts = np.cumsum(pieces.window_lengths) - pieces.window_lengths
    windows = [pieces.window_pieces[a : a + n] for a, n in zip(starts, pieces.window_lengths, strict=True)]
    strings = doc._.trf_word_pieces_
    for window in windows:
        assert strings[window[0]] == "[CLS]" and strings[window[-1]] == "[SEP]"
    for one, other in pairwise(windows):
        assert set(one) & set(other)
    assert set(np.concatenate(windows)) == set(range(len(strings)))
    assert strings.count("word") == n_words and all(doc._.trf_alignment)


def test_truncated_tokens_have_zero_vectors(tiny):
    nlp = pipeline(tiny, long_sentences="truncate")
    doc = nlp(" ".join(["word"] * 50))
    assert Pieces.of(doc).window_lengths.tolist() == [32]
    assert Pieces.of(doc).kept_tokens.tolist() == [30]
    assert np.abs(doc.tensor[:30]).min(axis=0).any() and not doc.tensor[30:].any()
    np.testing.assert_allclose(doc.tensor.sum(0), doc._.trf_last_hidden_state.sum(0), atol=1e-4)


@given(st.lists(texts, min_size=1, max_size=4))
def test_docbin_serializes_pieces(tiny_nlp, batch):
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    docs = [wordpiecer(tiny_nlp.make_doc(text)) for text in batch]
    data = DocBin(docs=docs, store_user_data=True).to_bytes()
    for doc, loaded in zip(docs, DocBin(store_user_data=True).from_bytes(data).get_docs(tiny_nlp.vocab), strict=True):
        wordpiecer(loaded)
        assert loaded._.trf_word_pieces.tolist() == doc._.trf_word_pieces.tolist()
        assert loaded._.trf_alignment == doc._.trf_alignment
        assert loaded._.trf_word_pieces_ == doc._.trf_word_pieces_


@given(st.lists(texts, max_size=5))
def test_pieces_do_not_depend_on_other_documents(tiny_nlp, batch):
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    docs, separate_docs = ([tiny_nlp.make_doc(text) for text in [*batch, "word " * 700]] for _ in range(2))
    wordpiecer.annotate(docs)
    for one, other in zip(docs, separate_docs, strict=True):
        wordpiecer.annotate([other])
        for name, value in vars(Pieces.of(other)).items():
            np.testing.assert_array_equal(getattr(Pieces.of(one), name), value, err_msg=name)
            assert getattr(Pieces.of(one), name).dtype == "int32"


def test_existing_pieces_are_not_recomputed(tiny_nlp):
    wordpiecer = tiny_nlp.get_pipe("trf_wordpiecer")
    doc = wordpiecer(tiny_nlp.make_doc("Once is enough."))
    before = Pieces.of(doc).ids
    assert Pieces.of(wordpiecer(doc)).ids is before


def test_error_messages(tmp_path):
    nlp = spacy.blank("en")
    with pytest.raises(ValueError, match=r"no weights in .*config.json not found"):
        nlp.add_pipe("trf_wordpiecer", config={"weights": str(tmp_path)})
    nlp.add_pipe("trf_wordpiecer")
    with pytest.raises(ValueError, match="'trf_wordpiecer' has no tokenizer"):
        nlp("Text.")


def test_to_disk_and_to_bytes(tiny_nlp, tmp_path):
    text = "Laura flew to Silicon Valley. It rained."
    expected = tiny_nlp(text)._.trf_word_pieces_
    tiny_nlp.to_disk(tmp_path / "pipeline")
    assert spacy.load(tmp_path / "pipeline")(text)._.trf_word_pieces_ == expected
    other = spacy.blank("en")
    other.add_pipe("trf_wordpiecer").from_bytes(tiny_nlp.get_pipe("trf_wordpiecer").to_bytes())
    assert other(text)._.trf_word_pieces_ == expected


def test_spans_document_and_number_of_tokens(nlp, minilm, tiny):
    text = "Laura flew to Silicon Valley. It rained."
    whole, runs = pipeline(minilm, spans="document"), pipeline(minilm, spans=4)
    assert " ".join(whole(text)._.trf_word_pieces_) == "[CLS] laura flew to silicon valley . it rained . [SEP]"
    assert " ".join(runs(text)._.trf_word_pieces_) == (
        "[CLS] laura flew to silicon [SEP] [CLS] valley . it rained [SEP] [CLS] . [SEP]"
    )
    for other in (whole, runs):
        doc = other(text)
        np.testing.assert_allclose(doc.tensor.sum(0), doc._.trf_last_hidden_state.sum(0), atol=1e-4)
        assert not doc.has_annotation("SENT_START") and other("").tensor.shape == (0, 384)
    windows = pipeline(tiny, spans="document")
    doc = windows("Word. " * 60)
    assert Pieces.of(doc).n_sentences == 1 and len(Pieces.of(doc).window_lengths) > 2
    with pytest.raises(ValueError, match="spans is 0: expected 'sentence', 'document' or a number"):
        pipeline(tiny, spans=0)


def test_training_warns_if_prediction_has_other_sentences(tiny):
    nlp = spacy.blank("en")
    nlp.add_pipe("senter")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
    examples = [Example.from_dict(nlp.make_doc("Some text. More."), {})]
    nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("One two."), {"sent_starts": [1, 0, 0]})])
    with pytest.warns(UserWarning, match=r"'senter' before it sets its own .* annotates=\['senter'\]"):
        nlp.update(examples, exclude=["senter"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp.update(examples, exclude=["senter"], annotates=["senter"])
        rules = spacy.blank("en")
        rules.add_pipe("sentencizer")
        rules.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
        rules.update([Example.from_dict(rules.make_doc("Some text. More."), {})])
