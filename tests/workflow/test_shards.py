import numpy as np
import spacy
from spacy.tokens import DocBin

from rootstock.pieces import Pieces
from workflow import shards

TEXTS = ["One sentence. And another.", "", "Café 👍"]


def annotated(tiny):
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
    docs = list(nlp.pipe(TEXTS))
    for i, doc in enumerate(docs):
        doc.user_data[shards.ROW] = f"train.jsonl:{i}"
        doc.cats = {"A": float(i)}
    return nlp.vocab, docs


def test_what_is_written_comes_back(tiny, tmp_path):
    vocab, docs = annotated(tiny)
    shards.write(iter(docs), tmp_path / "train", shard_docs=2)
    files = shards.files(tmp_path / "train")
    assert [file.name for file in files] == ["00000.spacy", "00001.spacy"]
    for doc, back in zip(docs, shards.read(files, vocab), strict=True):
        assert (back.text, back.cats, back.user_data[shards.ROW]) == (doc.text, doc.cats, doc.user_data[shards.ROW])
        assert [sent.text for sent in back.sents] == [sent.text for sent in doc.sents]
        for name, value in vars(Pieces.of(doc)).items():
            np.testing.assert_array_equal(getattr(Pieces.of(back), name), value, err_msg=name)


def test_a_file_is_the_one_that_spacy_writes(tiny, tmp_path):
    _, docs = annotated(tiny)
    shards.write(iter(docs), tmp_path, shard_docs=10)
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "spacy")
    assert (tmp_path / "00000.spacy").read_bytes() == (tmp_path / "spacy").read_bytes()
