import numpy as np
import pytest
from hypothesis import given
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Adam
from transformers import AutoTokenizer

from rootstock.pairs import make_pair
from rootstock.pieces.pieces import Pieces
from tests.conftest import pipeline
from tests.rootstock.strategies import texts
from tests.rootstock.weights.test_families import TOKENIZERS

FIRST, SECOND = "Is it raining?", "It is. Hard, too."


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason=f"no tokenizers in {TOKENIZERS}")
@pytest.mark.parametrize("name", ["bert-base-uncased", "roberta-base", "xlnet-base-cased", "gpt2"])
def test_boundary_pieces_and_types_equal_the_tokenizers(name):
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(TOKENIZERS / name)})
    doc = nlp(make_pair(nlp, FIRST, SECOND))
    expected = AutoTokenizer.from_pretrained(TOKENIZERS / name)(FIRST, SECOND)
    assert doc._.trf_word_pieces.tolist() == expected["input_ids"]
    assert Pieces.of(doc).types.tolist() == expected.get("token_type_ids", [0] * len(doc._.trf_word_pieces))
    assert doc.text == f"{FIRST} {SECOND}" and doc[doc._.trf_second_text].text == "It"


@given(texts, texts)
def test_windows_combine_every_piece_of_both_texts(tiny_nlp, first, second):
    """Texts of any length: each piece of one is in a window with each piece of the other. Sums are preserved."""
    doc = tiny_nlp(make_pair(tiny_nlp, first, second))
    pieces = Pieces.of(doc)
    assert doc.tensor.shape == (len(doc), 16)
    if len(doc):
        np.testing.assert_allclose(doc.tensor.sum(0), doc._.trf_last_hidden_state.sum(0), atol=1e-4)
    assert pieces.window_lengths.max(initial=0) <= 32
    windows = np.split(pieces.window_pieces, np.cumsum(pieces.window_lengths)[:-1])
    inner = pieces.ids > 999  # ids of [CLS] and [SEP] are smaller
    first_pieces, second_pieces = (np.flatnonzero(inner & (pieces.types == kind)) for kind in (0, 1))
    in_same_window = np.zeros((len(pieces.ids), len(pieces.ids)), bool)
    for window in windows:
        in_same_window[np.ix_(window, window)] = True
    assert in_same_window[np.ix_(first_pieces, second_pieces)].all()


def test_the_order_of_the_texts_matters(nlp):
    one, other = nlp(make_pair(nlp, FIRST, SECOND)), nlp(make_pair(nlp, SECOND, FIRST))
    single = nlp(f"{FIRST} {SECOND}")
    assert len(one._.trf_pooler_output) == 1 and len(single._.trf_pooler_output) == 3
    assert not np.allclose(one._.trf_pooler_output, other._.trf_pooler_output, atol=1e-2)


def test_pairs_can_be_trained_and_serialized(tiny):
    nlp = pipeline(tiny)
    head = nlp.add_pipe("trf_textcat")
    head.add_label("YES"), head.add_label("NO")
    pairs = [(FIRST, SECOND, "YES"), (FIRST, "No, it is dry.", "NO")]
    docs = [make_pair(nlp, first, second) for first, second, _ in pairs]
    data = [
        Example.from_dict(doc, {"cats": {name: float(name == label) for name in ("YES", "NO")}})
        for doc, (_, _, label) in zip(docs, pairs, strict=True)
    ]
    optimizer = Adam(0.003)
    losses = [nlp.update(data, sgd=optimizer, losses={})["trf_textcat"] for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]
    loaded = list(DocBin(docs=docs, store_user_data=True).get_docs(nlp.vocab))
    for doc, loaded_doc in zip(nlp.pipe(docs), nlp.pipe(loaded), strict=True):
        assert loaded_doc.cats == doc.cats
