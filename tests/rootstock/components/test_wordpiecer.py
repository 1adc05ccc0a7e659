import warnings
from itertools import pairwise

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from rootstock.components.pooling import POOLING
from rootstock.pairs import make_pair
from rootstock.pieces.alignment import add_tensor_gradient
from rootstock.pieces.pieces import Pieces
from tests import soak
from tests.conftest import pipeline
from tests.rootstock.strategies import texts
from tests.rootstock.test_update import BATCHES, examples, sgd


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


@soak.fuzz("alignment", many=1000)
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


@soak.fuzz("pieces in a DocBin", many=1000)
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


@soak.fuzz("alignment", many=500)
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


@pytest.fixture(scope="module")
def tiny_roberta(tiny, tmp_path_factory):
    """A RoBERTa with random weights and MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("roberta")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    net = RobertaModel(RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=34, **sizes))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEXT = "Laura flew to Silicon Valley. It rained."


def test_two_pairs_side_by_side_each_have_their_own_pieces(tiny, tiny_roberta):
    """Also with other settings; and whatever document passes again."""
    nlp = pipeline(tiny)
    other = pipeline(tiny_roberta, spans="document")
    expected, expected_last = nlp(TEXT).tensor, other(TEXT).tensor
    nlp.add_pipe("trf_wordpiecer", "other_wordpiecer", config={"weights": str(tiny_roberta), "spans": "document"})
    nlp.add_pipe("trf_tok2vec", "other_tok2vec", config={"weights": str(tiny_roberta), "precision": "fp32"})
    doc = nlp(TEXT)
    for _ in range(2):
        np.testing.assert_allclose(doc.tensor, expected_last, atol=1e-6)
        assert Pieces.of(doc).n_sentences == 1
        doc = nlp(doc)
    np.testing.assert_allclose(nlp(TEXT, disable=["other_wordpiecer", "other_tok2vec"]).tensor, expected, atol=1e-6)


def test_two_pairs_train_as_each_would_alone(tiny, tiny_roberta):
    def add(nlp, name, weights):
        if not nlp.pipe_names:
            nlp.add_pipe("sentencizer")
        nlp.add_pipe("trf_wordpiecer", f"wordpiecer_{name}", config={"weights": str(weights)})
        nlp.add_pipe("trf_tok2vec", f"tok2vec_{name}", config={"weights": str(weights), "precision": "fp32"})
        head = nlp.add_pipe("trf_textcat", f"head_{name}")
        head.add_label("GOOD"), head.add_label("BAD")
        return nlp

    def trained(nlp):
        optimizer = sgd()
        for batch in BATCHES:
            nlp.update(examples(nlp, batch), sgd=optimizer)
        return nlp

    both = trained(add(add(spacy.blank("en"), "a", tiny), "b", tiny_roberta))
    for name, weights in (("a", tiny), ("b", tiny_roberta)):
        alone = trained(add(spacy.blank("en"), name, weights))
        expected = alone.get_pipe(f"tok2vec_{name}").transformer.state_dict()
        for key, value in both.get_pipe(f"tok2vec_{name}").transformer.state_dict().items():
            np.testing.assert_allclose(value, expected[key], atol=1e-6, err_msg=key)


def test_a_transformer_refuses_pieces_for_another(tiny, tiny_roberta):
    nlp = spacy.blank("en")
    for name, weights in (("a", tiny), ("b", tiny_roberta)):
        nlp.add_pipe("trf_wordpiecer", f"wordpiecer_{name}", config={"weights": str(weights)})
    for name, weights in (("a", tiny), ("b", tiny_roberta)):
        nlp.add_pipe("trf_tok2vec", f"tok2vec_{name}", config={"weights": str(weights)})
    with pytest.raises(
        ValueError, match=r"wordpieces for roberta \(.*, but the transformer is bert \(.*positions 32\)"
    ):
        nlp(TEXT)


OTHER_SETTINGS = {
    "spans": ({"spans": "document"}, {"spans": "sentence"}),
    "number": ({"spans": 3}, {"spans": 4}),
    "long": ({"long_sentences": "truncate"}, {"long_sentences": "window"}),
}


@pytest.mark.filterwarnings("ignore:.*W109")  # spaCy does not save hooks
@pytest.mark.parametrize(("one", "other"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_pieces_of_another_pipeline_are_cut_again(tiny, one, other):
    first, second = pipeline(tiny, **one), pipeline(tiny, **other)
    text = f"{TEXT} {'word ' * 40}."
    for doc in (
        first(text),
        Doc(second.vocab).from_bytes(first(text).to_bytes()),
        next(DocBin(docs=[first(text)], store_user_data=True).get_docs(second.vocab)),
        first(text)[:].as_doc(copy_user_data=True),
    ):
        for token in doc:
            token.is_sent_start = None  # the first pipeline may have set them
        np.testing.assert_allclose(second(doc).tensor, second(text).tensor, atol=1e-6)


def test_a_part_of_a_document_has_pieces_of_its_own(tiny_nlp):
    doc = tiny_nlp(TEXT)
    part = doc[1:4].as_doc(copy_user_data=True)
    expected = tiny_nlp(Doc(tiny_nlp.vocab, words=["flew", "to", "Silicon"], spaces=[True, True, True]))
    assert part.text == "flew to Silicon " and len(tiny_nlp(part).tensor) == 3
    np.testing.assert_allclose(part.tensor, expected.tensor, atol=1e-6)


def test_pieces_follow_other_sentences(tiny_nlp):
    doc = tiny_nlp(TEXT)
    for token in doc:
        token.is_sent_start = token.i == 0
    assert Pieces.of(tiny_nlp(doc)).n_sentences == 1


def test_a_saved_pipeline_reuses_pieces(tiny_nlp, tmp_path):
    """Those of a wordpiece stage, for example: the digest is the same wherever the tokenizer was loaded from."""
    doc = tiny_nlp(TEXT)
    before = Pieces.of(doc).ids
    tiny_nlp.to_disk(tmp_path / "pipeline")
    alone = spacy.blank("en")
    alone.add_pipe("trf_wordpiecer", config={"weights": str(tmp_path / "pipeline/trf_wordpiecer")})
    for nlp in (spacy.load(tmp_path / "pipeline"), alone):
        assert Pieces.of(nlp.get_pipe("trf_wordpiecer")(doc)).ids is before


def merge(doc):
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[3:5])
    return doc


def split(doc):
    with doc.retokenize() as retokenizer:
        retokenizer.split(doc[0], ["La", "ura"], [(doc[0], 1), doc[1]])
    return doc


@pytest.mark.parametrize("change", [merge, split])
def test_merged_and_split_tokens(tiny_nlp, change):
    """Between the components: an error. Passed through both again: as if they had always been so."""
    wordpiecer, tok2vec = (tiny_nlp.get_pipe(name) for name in ("trf_wordpiecer", "trf_tok2vec"))
    doc = change(wordpiecer(tiny_nlp.make_doc(TEXT)))
    with pytest.raises(ValueError, match="other tokens than when its wordpieces were made"):
        tok2vec(doc)
    with pytest.raises(ValueError, match="other tokens than when its wordpieces were made"):
        tok2vec.update([Example(doc, doc)])
    before = tiny_nlp(change(tiny_nlp.make_doc(TEXT)))
    np.testing.assert_allclose(tok2vec(wordpiecer(doc)).tensor, before.tensor, atol=1e-6)
    after = change(tiny_nlp(TEXT))
    with pytest.raises(ValueError, match="other tokens than when its wordpieces were made"):
        after._.trf_alignment  # noqa: B018
    with pytest.raises(ValueError, match="other tokens than when its wordpieces were made"):
        add_tensor_gradient(after, after.tensor)
    np.testing.assert_allclose(tiny_nlp(after).tensor, before.tensor, atol=1e-6)


def test_heads_that_read_pieces_do_not_mind_merged_tokens(tiny_nlp):
    for read in POOLING.values():
        np.testing.assert_allclose(read(merge(tiny_nlp(TEXT)))[0], read(tiny_nlp(TEXT))[0], atol=1e-6)


def test_a_changed_tokenizer_is_noticed(tiny):
    nlp = pipeline(tiny)
    wordpiecer = nlp.get_pipe("trf_wordpiecer")
    doc = wordpiecer(nlp.make_doc("A covid test."))
    before = doc._.trf_word_pieces_
    assert "covid" not in before
    wordpiecer.tokenizer.add_tokens(["covid"])
    assert wordpiecer(nlp.make_doc("A covid test."))._.trf_word_pieces_ == ["[CLS]", "a", "covid", "test", ".", "[SEP]"]
    assert "covid" in wordpiecer(doc)._.trf_word_pieces_
    with pytest.raises(ValueError, match="piece 30522 is outside the transformer's embedding of 30522 pieces"):
        nlp("A covid test.")
    wordpiecer.spans = 2
    assert Pieces.of(wordpiecer(doc)).n_sentences == 2
    wordpiecer.tokenizer.backend_tokenizer.normalizer = type(wordpiecer.tokenizer.backend_tokenizer.normalizer)(
        lowercase=False
    )
    assert "[UNK]" in wordpiecer(nlp.make_doc("A covid test."))._.trf_word_pieces_


def test_the_callers_use_of_the_tokenizer_has_no_effect(tiny):
    """Transformers keeps truncation and padding on after a call that asked for them."""
    nlp = pipeline(tiny)
    wordpiecer = nlp.get_pipe("trf_wordpiecer")
    wordpiecer.tokenizer(["One two three four.", "One."], truncation=True, max_length=4, padding=True)
    text = "Some new words that nobody has cut before."
    assert wordpiecer(nlp.make_doc(text))._.trf_word_pieces.tolist() == wordpiecer.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("owner", ["parser", "senter"])
def test_sentences_belong_to_the_component_that_sets_them(tiny, owner):
    """What spaCy's rules split here, "Mr." for one, is neither given to the parser nor left in its place."""
    nlp = pipeline(tiny)
    nlp.add_pipe(owner)
    doc = Doc(nlp.vocab, words=["Mr.", "Smith", "came", ".", "It", "rained", "."])
    predicted = doc.copy()
    nlp.get_pipe("trf_wordpiecer").update([Example(predicted, doc)])
    for one in (predicted, nlp.get_pipe("trf_wordpiecer")(doc.copy())):
        assert not one.has_annotation("SENT_START") and Pieces.of(one).n_sentences == 2
    with nlp.select_pipes(disable=[owner]):
        assert len(list(nlp(doc.copy()).sents)) == 2


@pytest.mark.parametrize("change", [merge, split], ids=["merge", "split"])
def test_a_second_text_that_no_longer_fits(tiny_nlp, change):
    pair = make_pair(tiny_nlp, TEXT, "It was wet.")
    with pytest.raises(ValueError, match="second text no longer begins at token"):
        tiny_nlp(change(pair))
    pair._.trf_second_text = 100
    with pytest.raises(ValueError, match="second text no longer begins at token 100"):
        tiny_nlp(pair)


def test_a_tokenizer_that_the_embedding_is_too_small_for(tiny, tmp_path):
    """Found when loaded, with both sizes; and at prediction if the two components have different weights."""
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(["covid"])
    tokenizer.save_pretrained(tmp_path), config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer has 30523 pieces, but the transformer's embedding only 30522"):
        spacy.blank("en").add_pipe("trf_wordpiecer", config={"weights": str(tmp_path)})


def test_a_tokenizer_with_a_folder_of_templates(tiny, tmp_path):
    nlp = pipeline(tiny)
    tokenizer = nlp.get_pipe("trf_wordpiecer").tokenizer
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    nlp.to_disk(tmp_path / "pipeline")
    assert (tmp_path / "pipeline/trf_wordpiecer/additional_chat_templates").is_dir()
    for loaded in (pipeline(tiny).from_bytes(nlp.to_bytes()), spacy.load(tmp_path / "pipeline")):
        assert loaded.get_pipe("trf_wordpiecer").tokenizer.chat_template == tokenizer.chat_template
        np.testing.assert_array_equal(loaded(TEXT).tensor, nlp(TEXT).tensor)
