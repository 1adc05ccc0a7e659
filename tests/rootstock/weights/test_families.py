"""Every model family: the real architecture with tiny random weights, and a real tokenizer."""

from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers as hf
from spacy.training import Example
from transformers import AutoTokenizer

from rootstock.pieces.alignment import alignment_entries
from rootstock.pieces.pieces import Pieces
from rootstock.weights.weights import load_model
from tests.conftest import ARTICLE, SHARED, pipeline
from tests.rootstock.test_update import BATCHES, examples, sgd

TOKENIZERS = SHARED / "tokenizers"
pytestmark = pytest.mark.skipif(not TOKENIZERS.is_dir(), reason=f"no tokenizers in {TOKENIZERS}")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BERT_LIKE = {**SMALL, "max_position_embeddings": 40}

# model type: config class, its settings, the tokenizer (of the family itself if available)
FAMILIES = {
    "bert": (hf.BertConfig, BERT_LIKE, "bert-base-uncased"),
    "roberta": (hf.RobertaConfig, {**BERT_LIKE, "max_position_embeddings": 42, "pad_token_id": 1}, "roberta-base"),
    "distilbert": (
        hf.DistilBertConfig,
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40},
        "bert-base-uncased",
    ),
    "albert": (hf.AlbertConfig, {**BERT_LIKE, "embedding_size": 8}, "bert-base-uncased"),
    "electra": (hf.ElectraConfig, {**BERT_LIKE, "embedding_size": 8}, "bert-base-uncased"),
    "mpnet": (hf.MPNetConfig, {**BERT_LIKE, "max_position_embeddings": 42, "pad_token_id": 1}, "bert-base-uncased"),
    "deberta-v2": (
        hf.DebertaV2Config,
        {**BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
         "share_att_key": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"},
        "bert-base-uncased",
    ),
    "modernbert": (
        hf.ModernBertConfig,
        {**BERT_LIKE, "pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "local_attention": 8},
        "bert-base-uncased",
    ),
    "xlnet": (hf.XLNetConfig, {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32}, "xlnet-base-cased"),
    "gpt2": (hf.GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}, "gpt2"),
    "xlm": (
        hf.XLMConfig,
        {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40, "n_langs": 2},
        "xlm-mlm-enfr-1024",
    ),
    "xlm-roberta": (hf.XLMRobertaConfig, {**BERT_LIKE, "max_position_embeddings": 42, "pad_token_id": 1}, "roberta-base"),
}  # fmt: skip

TEXTS = [
    "Laura flew to Silicon Valley. It rained!",
    "Naïve U.S. visitors can't tell: 😀 or 汉字?",
    "",
    " \n ",
    " ".join(f"word{i}" for i in range(60)),
]


def make_weights(family: str, folder: Path) -> Path:
    make_config, settings, tokenizer_name = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / tokenizer_name)
    size = {"n_words": len(tokenizer)} if family == "xlm" else {"vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    net = hf.AutoModel.from_config(make_config(**settings, **size))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def weights(request, tmp_path_factory):
    return make_weights(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def family_nlp(weights):
    return pipeline(weights)


def windows_of(pieces: Pieces):
    ends = np.cumsum(pieces.window_lengths)
    return [pieces.window_pieces[end - n : end] for end, n in zip(ends, pieces.window_lengths, strict=True)]


def test_last_hidden_state_equals_the_models(family_nlp):
    """Each window separately through the model of Transformers; a piece in two windows has their mean."""
    net = family_nlp.get_pipe("trf_tok2vec").transformer.eval()
    for doc in family_nlp.pipe(TEXTS):
        pieces = Pieces.of(doc)
        total, n_windows = np.zeros((len(pieces.ids), 16)), np.zeros((len(pieces.ids), 1))
        for window in windows_of(pieces):
            ids, types = (torch.from_numpy(array[window]).long()[None] for array in (pieces.ids, pieces.types))
            token_types = {"token_type_ids": types} if types.any() else {}
            with torch.no_grad():
                total[window] += net(ids, **token_types).last_hidden_state[0].numpy()
            n_windows[window] += 1
        np.testing.assert_allclose(doc._.trf_last_hidden_state, total / np.maximum(n_windows, 1), atol=1e-4)


def test_boundary_pieces_equal_the_tokenizers(family_nlp):
    wordpiecer = family_nlp.get_pipe("trf_wordpiecer")
    for doc in family_nlp.pipe(TEXTS[:2]):
        ends = np.cumsum(Pieces.of(doc).sentence_pieces)
        parts = [np.split(array, ends[:-1]) for array in (Pieces.of(doc).ids, Pieces.of(doc).types)]
        for sent, ids, types in zip(doc.sents, *parts, strict=True):
            expected = wordpiecer.tokenizer(sent.text)
            assert ids.tolist() == expected["input_ids"]
            assert types.tolist() == expected.get("token_type_ids", [0] * len(ids))


def test_sums_are_preserved_and_columns_sum_to_one(family_nlp):
    for doc in family_nlp.pipe(TEXTS):
        assert doc.tensor.shape == (len(doc), 16)
        if Pieces.of(doc).n_tokens:
            np.testing.assert_allclose(doc.tensor.sum(0), doc._.trf_last_hidden_state.sum(0), atol=1e-3)
            _, columns, weights = alignment_entries(Pieces.of(doc))
            np.testing.assert_allclose(np.bincount(columns, weights, len(doc._.trf_word_pieces)), 1, atol=1e-6)


def test_first_pieces_match_their_words(family_nlp):
    doc = family_nlp(TEXTS[0])
    strings = [doc._.trf_word_pieces_[i].strip("▁Ġ").lower() for [i] in [a[:1] for a in doc._.trf_alignment]]
    for token, first in zip(doc, strings, strict=True):
        assert token.lower_.startswith(first.replace("</w>", "")) and first, (token, first)


def test_vectors_do_not_depend_on_other_documents(family_nlp):
    docs = list(family_nlp.pipe(TEXTS))
    for doc in docs:
        np.testing.assert_allclose(family_nlp(doc.text).tensor, doc.tensor, atol=1e-5)


def test_class_piece_position(family_nlp, weights):
    doc = family_nlp(TEXTS[0])
    pieces = Pieces.of(doc)
    position = {"xlnet": -1, "gpt2": -1}.get(weights.name[:-1], 0)
    assert pieces.window_class.tolist() == [window[position] for window in windows_of(pieces)]


def test_training_and_saving(weights, tmp_path):
    nlp = pipeline(weights)
    head = nlp.add_pipe("trf_textcat")
    head.add_label("GOOD"), head.add_label("BAD")
    before = {k: v.clone() for k, v in nlp.get_pipe("trf_tok2vec").transformer.state_dict().items()}
    data: list[Example] = examples(nlp, BATCHES[0])
    losses = [nlp.update(data, sgd=sgd(), losses={})["trf_textcat"] for _ in range(3)]
    assert losses[-1] < losses[0]
    after = nlp.get_pipe("trf_tok2vec").transformer.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    for text in TEXTS:
        one, other = nlp(text), loaded(text)
        np.testing.assert_allclose(other.tensor, one.tensor, atol=1e-6)
        assert other.cats == pytest.approx(one.cats, abs=1e-6)


# The pieces that the article prints for each tokenizer, without boundary pieces.
ARTICLE_PIECES = {
    "bert-base-uncased": """laced with dreams - dripping in reality , the american dream reign ##ites after 9 . 11 with
        a true story about the devil ray ' s mid - life rookie , jimmy morris .""",
    "gpt2": """L aced Ġwith Ġdreams Ġ- Ġdripping Ġin Ġreality , Ġthe ĠAmerican ĠDream Ġreign ites Ġafter Ġ9 . 11 Ġwith
        Ġa Ġtrue Ġstory Ġabout Ġthe ĠDevil ĠRay 's Ġmid - life Ġrookie , ĠJimmy ĠMorris .""",
    "xlnet-base-cased": """▁Lac ed ▁with ▁dreams ▁ - ▁dripping ▁in ▁reality , ▁the ▁American ▁Dream ▁reign ites ▁after ▁9 .
        11 ▁with ▁a ▁true ▁story ▁about ▁the ▁Devil ▁Ray ' s ▁mid - life ▁rookie , ▁Jimmy ▁Morris .""",
    "xlm-mlm-enfr-1024": """laced</w> with</w> dreams</w> -</w> dri pping</w> in</w> reality</w> ,</w> the</w> americ an</w>
        dream</w> re ign ites</w> after</w> 9. 11</w> with</w> a</w> true</w> story</w> about</w> the</w> devil</w> ray</w>
        's</w> mid</w> -</w> life</w> rookie</w> ,</w> j im my</w> mor ris</w> .</w>""",
}
ARTICLE_TOKENS = (
    "Laced with dreams - dripping in reality , the American Dream reignites after 9.11 with a true story about "
    "the Devil Ray 's mid - life rookie , Jimmy Morris ."
)
# Boundary pieces as in pretraining; for XLNet and GPT-2 they differ from those in the article.
BOUNDARIES = {
    "bert-base-uncased": (["[CLS]"], ["[SEP]"]),
    "gpt2": ([], []),
    "xlnet-base-cased": ([], ["<sep>", "<cls>"]),
    "xlm-mlm-enfr-1024": (["<s>"], ["</s>"]),
}


@pytest.mark.parametrize("name", ARTICLE_PIECES)
def test_pieces_equal_those_in_the_article(name):
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(TOKENIZERS / name)})
    # In 2019 XLM's tokenizer split "mid-life" like spaCy; the current one does not, as in XLM's pretraining.
    doc = nlp(ARTICLE.replace("mid-life", "mid - life") if name.startswith("xlm") else ARTICLE)
    before, after = BOUNDARIES[name]
    assert doc._.trf_word_pieces_ == [*before, *ARTICLE_PIECES[name].split(), *after]
    assert [token.text for token in doc] == ARTICLE_TOKENS.split()
    # Alignment: the pieces of a token, without the tokenizer's marks, are its letters.
    for token, pieces in zip(doc, doc._.trf_alignment, strict=True):
        letters = "".join(doc._.trf_word_pieces_[i] for i in pieces)
        for mark in ("##", "Ġ", "▁", "</w>"):
            letters = letters.replace(mark, "")
        assert letters.lower() == token.lower_


def test_xlm_does_not_split_a_hyphenated_word():
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(TOKENIZERS / "xlm-mlm-enfr-1024")})
    doc = nlp(ARTICLE)
    printed = " ".join(ARTICLE_PIECES["xlm-mlm-enfr-1024"].split())
    assert doc._.trf_word_pieces_[1:-1] == printed.replace("mid</w> -</w> life</w>", "mid- life</w>").split()
    mid, hyphen, life = doc[23:26]
    assert mid._.trf_word_pieces_ == hyphen._.trf_word_pieces_ == ["mid-"] and life._.trf_word_pieces_ == ["life</w>"]


def test_roberta_has_its_own_boundary_pieces():
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(TOKENIZERS / "roberta-base")})
    assert nlp(ARTICLE)._.trf_word_pieces_ == ["<s>", *ARTICLE_PIECES["gpt2"].split(), "</s>"]


def make_model(config, tokenizer_name, folder):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / tokenizer_name)
    torch.manual_seed(0)
    net = hf.AutoModel.from_config(config(vocab_size=len(tokenizer)))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net.save_pretrained(folder), tokenizer.save_pretrained(folder)
    return folder


def roberta_like(make_config, pad=1, **settings):
    return lambda **size: make_config(
        **{**BERT_LIKE, "max_position_embeddings": 42, "pad_token_id": pad, **settings, **size}
    )


# Models whose position table has a padding index, whatever the family, and the longest window that follows.
WITH_PADDING_INDEX = {
    "roberta, pad 0": (roberta_like(hf.RobertaConfig, 0), 41),
    "roberta, pad 1": (roberta_like(hf.RobertaConfig), 40),
    "roberta, pad 3": (roberta_like(hf.RobertaConfig, 3), 38),
    "roberta-prelayernorm": (roberta_like(hf.RobertaPreLayerNormConfig), 40),
    "xmod": (roberta_like(hf.XmodConfig, languages=["en_XX"], default_language="en_XX"), 40),
    "data2vec-text": (roberta_like(hf.Data2VecTextConfig), 40),
    "ibert": (roberta_like(hf.IBertConfig), 40),
    "esm": (roberta_like(hf.EsmConfig), 40),
    "longformer": (roberta_like(hf.LongformerConfig, attention_window=8), 40),
    "big_bird": (roberta_like(hf.BigBirdConfig, attention_type="original_full"), 42),
}


@pytest.mark.parametrize(("config", "longest"), WITH_PADDING_INDEX.values(), ids=WITH_PADDING_INDEX)
def test_positions_begin_after_the_padding_index(config, longest, tmp_path):
    """As the model of Transformers counts by itself: also if a text has the padding piece."""
    folder = make_model(config, "roberta-base", tmp_path)
    nlp, net = pipeline(folder, spans="document"), hf.AutoModel.from_pretrained(folder).eval()
    texts = ["Laura flew.", "Laura <pad> flew to <s> Silicon Valley.", "word " * longest]
    for doc in nlp.pipe(texts):
        pieces = Pieces.of(doc)
        total, n_windows = np.zeros((len(pieces.ids), 16)), np.zeros((len(pieces.ids), 1))
        for window in windows_of(pieces):
            with torch.no_grad():
                total[window] += net(torch.from_numpy(pieces.ids[window]).long()[None]).last_hidden_state[0].numpy()
            n_windows[window] += 1
        np.testing.assert_allclose(doc._.trf_last_hidden_state, total / n_windows, atol=1e-5)
    assert Pieces.of(doc).window_lengths.max() == longest


REFUSED = {
    "big_bird": (roberta_like(hf.BigBirdConfig, block_size=4), "attention_type='block_sparse' is not supported"),
    "fnet": (roberta_like(hf.FNetConfig), "'fnet' is not supported: its vectors depend on how far a text is padded"),
    "convbert": (roberta_like(hf.ConvBertConfig, embedding_size=16), "'convbert' is not supported: its vectors depend"),
    "nystromformer": (
        roberta_like(hf.NystromformerConfig, segment_means_seq_len=8, num_landmarks=4),
        "'nystromformer' is not supported: shape",
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_models_without_dense_attention_are_refused(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_model(make_model(config, "roberta-base", tmp_path))


class DropoutRates(torch.overrides.TorchFunctionMode):
    """Collects the rates that dropout is called with, layers and attention included."""

    def __init__(self):
        super().__init__()
        self.rates = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.nn.functional.dropout:
            _, rate, training, *_ = [*args, *(kwargs[name] for name in ("p", "training") if name in kwargs)]
            self.rates.update([rate] if training else [])
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.rates.add(kwargs["dropout_p"])
        return func(*args, **kwargs)


def test_the_dropout_rate_is_the_one_given(weights):
    """In every layer, and where a model calls the function; with 0 training computes what prediction does."""
    plain = pipeline(weights, kernels=False)
    for nlp in (plain, pipeline(weights)):
        head = nlp.add_pipe("trf_textcat", config={"head": "mean"})
        head.add_label("GOOD"), head.add_label("BAD")
        data = examples(nlp, BATCHES[0])
        for name in ("trf_wordpiecer", "trf_tok2vec"):
            nlp.get_pipe(name).update(data, drop=0.0)
        expected = nlp(data[0].text).tensor
        np.testing.assert_allclose(data[0].predicted.tensor, expected, atol=1e-4)
    with DropoutRates() as mode:
        plain.update(examples(plain, BATCHES[0]), drop=0.25)
    assert mode.rates == {0.25}
