import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from rootstock.pieces.alignment import add_tensor_gradient
from rootstock.pieces.pieces import Pieces
from tests.conftest import ARTICLE, pipeline
from tests.rootstock.strategies import texts

REVIEW = (
    "I went in expecting a dull period piece, and the first half hour did little to change my mind.<br /><br />"
    "But then Mr. Harlow (who hasn't been this good since the '90s!) walks into the kitchen, and everything changes. "
    "It isn't perfect: the score's overdone; the ending drags... Still, 8/10 - don't miss it."
)


def test_features_of_the_article(nlp):
    """One row per token and per piece, with equal sums."""
    doc = nlp("Here is some text to encode.")
    assert doc.tensor.shape == (7, 384)
    assert doc._.trf_word_pieces_ == ["[CLS]", "here", "is", "some", "text", "to", "en", "##code", ".", "[SEP]"]
    assert doc._.trf_alignment == [[1], [2], [3], [4], [5], [6, 7], [8]]
    assert len(doc._.trf_last_hidden_state) == len(doc._.trf_word_pieces)
    np.testing.assert_allclose(doc.tensor.sum(axis=0), doc._.trf_last_hidden_state.sum(axis=0), atol=1e-4)
    assert np.array_equal(doc[2:4].tensor, doc.tensor[2:4])
    assert doc._.trf_outputs.last_hidden_state is doc._.trf_last_hidden_state
    assert doc._.trf_pooler_output.shape == (1, 384)


def test_similarity_example_of_the_article(nlp):
    """Context distinguishes the company from the fruit, in token and in sentence vectors."""
    rose, sold, pie = nlp.pipe(
        ["Apple shares rose on the news.", "Apple sold fewer iPhones this quarter.", "Apple pie is delicious."]
    )
    assert rose[0].similarity(sold[0]) > rose[0].similarity(pie[0]) + 0.05
    assert rose.similarity(sold) > rose.similarity(pie) + 0.05
    assert rose[0:1].similarity(sold[0:1]) == pytest.approx(rose[0].similarity(sold[0]), abs=1e-6)
    assert rose.has_vector and rose[0].has_vector and rose[0:2].has_vector
    np.testing.assert_allclose(rose.vector, rose.tensor.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(rose[1].vector, rose.tensor[1], atol=1e-6)
    assert rose[0:2].vector_norm == pytest.approx(np.linalg.norm(rose[0:2].vector), rel=1e-5)


def test_alignment_example_of_the_article(nlp, minilm):
    """Tokens of several pieces, with equal sums of tokens and pieces."""
    doc = nlp(ARTICLE)
    strings = doc._.trf_word_pieces_
    split_tokens = {
        token.text: [strings[i] for i in token._.trf_alignment] for token in doc if len(token._.trf_alignment) > 1
    }
    assert split_tokens == {"reignites": ["reign", "##ites"], "9.11": ["9", ".", "11"], "'s": ["'", "s"]}
    tokenizer, net = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)
    with torch.no_grad():
        hidden = net(**tokenizer(ARTICLE, return_tensors="pt")).last_hidden_state[0].numpy()
    np.testing.assert_allclose(doc._.trf_last_hidden_state, hidden, atol=1e-4)
    boundaries = (hidden[0] + hidden[-1]) / len(doc)
    for token in doc:
        np.testing.assert_allclose(token.vector, hidden[token._.trf_alignment].sum(0) + boundaries, atol=1e-4)
    np.testing.assert_allclose(doc.tensor.sum(0), hidden.sum(0), atol=1e-3)


def test_outputs_of_a_review_equal_those_of_transformers(nlp, minilm):
    doc = nlp(REVIEW)
    assert Pieces.of(doc).n_sentences == len(list(doc.sents)) >= 3
    tokenizer, net = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)
    with torch.no_grad():
        outputs = [net(**tokenizer(sent.text, return_tensors="pt")) for sent in doc.sents]
    hidden = torch.cat([o.last_hidden_state[0] for o in outputs]).numpy()
    np.testing.assert_allclose(doc._.trf_last_hidden_state, hidden, atol=1e-4)
    pooled = torch.cat([o.pooler_output for o in outputs]).numpy()
    np.testing.assert_allclose(doc._.trf_pooler_output, pooled, atol=1e-4)
    np.testing.assert_allclose(doc.tensor.sum(axis=0), hidden.sum(axis=0), atol=1e-3)
    assert all(pieces for token, pieces in zip(doc, doc._.trf_alignment, strict=True) if not token.is_space)


def test_pooled_windows_are_padded_to_powers_of_two(minilm):
    nlp, seen, sentences = pipeline(minilm), set(), range(3, 40, 4)
    pooler = nlp.get_pipe("trf_tok2vec").transformer.pooler
    handle = pooler.register_forward_pre_hook(lambda module, inputs: seen.add(len(inputs[0])))
    docs = [nlp("It rains. " * n) for n in sentences]
    handle.remove()
    assert seen - {1} == {4, 8, 16, 32, 64}  # 1: the model's own call pools only the first piece
    for doc, n in zip(docs, sentences, strict=True):
        pooled = doc._.trf_pooler_output
        assert pooled.shape == (n, 384)
        np.testing.assert_allclose(pooled, np.repeat(pooled[:1], n, axis=0), atol=1e-4)


@given(st.lists(texts, min_size=1, max_size=5))
def test_sums_are_preserved(tiny_nlp, batch):
    for doc in tiny_nlp.pipe(batch):
        assert doc.tensor.shape == (len(doc), 16)
        np.testing.assert_allclose(doc.tensor.sum(0), doc._.trf_last_hidden_state.sum(0), atol=1e-4)


@given(st.lists(texts, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_vectors_do_not_depend_on_other_documents(tiny_nlp, batch, rng):
    separate = {text: tiny_nlp(text).tensor for text in batch}
    rng.shuffle(batch)
    for doc in tiny_nlp.pipe(batch):
        np.testing.assert_allclose(doc.tensor, separate[doc.text], atol=1e-5)


def test_words_per_batch_limits_a_forward_pass(minilm):
    nlp = pipeline(minilm, words_per_batch=64)
    sizes = []
    net = nlp.get_pipe("trf_tok2vec").transformer
    net.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    tensor = nlp(REVIEW).tensor
    assert len(sizes) > 1 and max(sizes) <= 64
    np.testing.assert_allclose(tensor, pipeline(minilm)(REVIEW).tensor, atol=1e-4)


def test_a_piece_in_two_windows_has_the_mean_of_its_rows(tiny_nlp):
    doc = tiny_nlp(" ".join(f"w{i}" for i in range(40)))
    pieces = Pieces.of(doc)
    net = tiny_nlp.get_pipe("trf_tok2vec").transformer
    rows = np.zeros((len(pieces.ids), 16))
    n_windows = np.zeros(len(pieces.ids))
    ends = np.cumsum(pieces.window_lengths)
    for end, n in zip(ends, pieces.window_lengths, strict=True):
        window = pieces.window_pieces[end - n : end]
        with torch.no_grad():
            rows[window] += net(torch.from_numpy(pieces.ids[window]).long()[None]).last_hidden_state[0].numpy()
        n_windows[window] += 1
    assert n_windows.max() >= 2
    np.testing.assert_allclose(doc._.trf_last_hidden_state, rows / n_windows[:, None], atol=1e-5)


def test_memory_grows_with_a_long_unit_and_not_with_its_square(tiny):
    """Each window has boundary pieces, which belong to all tokens of the unit: as entries of a matrix, 800 MB."""
    nlp = pipeline(tiny, spans="document")
    doc = nlp.get_pipe("trf_wordpiecer")(nlp.make_doc("word " * 8000))
    tracemalloc.start()
    nlp.get_pipe("trf_tok2vec")(doc)
    add_tensor_gradient(doc, doc.tensor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_bf16_is_close_to_fp32(minilm, nlp):
    half, full = pipeline(minilm, precision="bf16")(REVIEW).tensor, nlp(REVIEW).tensor
    cosine = (half * full).sum(1) / (np.linalg.norm(half, axis=1) * np.linalg.norm(full, axis=1))
    assert cosine.min() > 0.999 and not np.array_equal(half, full)


@pytest.fixture(scope="module")
def with_head(minilm):
    nlp = pipeline(minilm)
    head = nlp.add_pipe("trf_textcat")
    head.add_label("A"), head.add_label("B")
    return nlp


MANY_TEXTS = [f"This is text {i}. {'It goes on. ' * (i % 5)}" for i in range(60)]


@pytest.mark.filterwarnings("ignore:.*W109")  # hooks are not serialized; vectors still come from the tensor
def test_pipe_with_several_processes(with_head, request):
    """Processes are forked after the parent has used its threads, which could deadlock."""
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    expected = list(with_head.pipe(MANY_TEXTS))
    for one, other in zip(expected, with_head.pipe(MANY_TEXTS, n_process=2, batch_size=10), strict=True):
        np.testing.assert_allclose(other.tensor, one.tensor, atol=1e-5)
        np.testing.assert_allclose(other.vector, one.vector, atol=1e-5)
        assert other._.trf_alignment == one._.trf_alignment
        assert other.cats == pytest.approx(one.cats, abs=1e-5)


def test_prediction_in_several_threads(with_head):
    expected = [doc.tensor for doc in with_head.pipe(MANY_TEXTS)]
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda text: with_head(text).tensor, MANY_TEXTS * 3))
    for one, other in zip(actual, expected * 3, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_empty_documents(nlp):
    for doc in nlp.pipe(["", " ", "\n\n", "Text."]):
        assert doc.tensor.shape == (len(doc), 384)
    assert nlp("").vector.shape == (384,) and nlp("").similarity(nlp("Text.")) == 0
    assert list(nlp.pipe([])) == []


def test_a_saved_pipeline_contains_no_path_of_weights(tiny, tmp_path):
    nlp = pipeline(tiny)
    expected = nlp("Some text.").tensor
    assert str(tiny) not in nlp.config.to_str()
    nlp.to_disk(tmp_path / "pipeline")
    for file in (tmp_path / "pipeline").rglob("*"):
        assert file.is_dir() or str(tiny).encode() not in file.read_bytes(), file
    np.testing.assert_array_equal(spacy.load(tmp_path / "pipeline")("Some text.").tensor, expected)
    from_bytes = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    np.testing.assert_array_equal(from_bytes("Some text.").tensor, expected)


def test_error_messages(tiny, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
    tok2vec = nlp.add_pipe("trf_tok2vec")
    with pytest.raises(ValueError, match="trf_tok2vec has no weights"):
        nlp("Text.")
    nlp.remove_pipe("trf_wordpiecer")
    with pytest.raises(ValueError, match="add 'trf_wordpiecer'"):
        nlp("Text.")
    with pytest.raises(ValueError, match=r"model.safetensors not found"):
        tok2vec.from_disk(tmp_path)
