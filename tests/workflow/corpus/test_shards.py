import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.attrs import NORM, ORTH, SENT_START
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from rootstock.pieces.pieces import Pieces
from tests import soak
from workflow.corpus import shards
from workflow.engine.errors import Problem
from workflow.files import write_json

TEXTS = ["One sentence. And another.", "", "Café 👍"]


def annotated(tiny):
    nlp = spacy.blank("en")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
    docs = list(nlp.pipe(TEXTS))
    for i, doc in enumerate(docs):
        doc.user_data[shards.ROW] = f"train.jsonl:{i}"
        doc.cats = {"A": float(i)}
    return nlp.vocab, docs


def test_documents_survive_a_round_trip(tiny, tmp_path):
    vocab, docs = annotated(tiny)
    shards.write(iter(docs), tmp_path / "train", shard_docs=2)
    files = shards.files(tmp_path / "train")
    assert [file.name for file in files] == ["00000.spacy", "00001.spacy"]
    for doc, copy in zip(docs, shards.read(files, vocab), strict=True):
        assert (copy.text, copy.cats, copy.user_data[shards.ROW]) == (doc.text, doc.cats, doc.user_data[shards.ROW])
        assert [sent.text for sent in copy.sents] == [sent.text for sent in doc.sents]
        for name, value in vars(Pieces.of(doc)).items():
            np.testing.assert_array_equal(getattr(Pieces.of(copy), name), value, err_msg=name)


def parsed(vocab):
    """A document with every attribute that DocBin knows."""
    words = ["Ada", "Lovelace", "wrote", "programs", "."]
    doc = Doc(
        vocab,
        words=words,
        spaces=[True, True, True, False, False],
        tags=["NNP", "NNP", "VBD", "NNS", "."],
        pos=["PROPN", "PROPN", "VERB", "NOUN", "PUNCT"],
        morphs=["Number=Sing", "Number=Sing", "Tense=Past", "Number=Plur", ""],
        lemmas=["Ada", "Lovelace", "write", "program", "."],
        heads=[1, 2, 2, 2, 2],
        deps=["compound", "nsubj", "ROOT", "dobj", "punct"],
    )
    doc.ents = [Span(doc, 0, 2, "PERSON", kb_id="Q7259", span_id="ada")]
    doc.spans["who"] = [Span(doc, 1, 2, "NAME", kb_id="Q1", span_id="family")]
    doc[3].norm_ = "programmes"
    return doc


def test_docbin_reads_everything_that_it_would_have_written(tiny, tmp_path):
    vocab, docs = annotated(tiny)
    docs.insert(1, parsed(vocab))
    docs.append(Doc(vocab, words=["no", "spaces"]))
    shards.write(iter(docs), tmp_path, shard_docs=10)
    (file,) = shards.files(tmp_path)
    stored = DocBin().from_disk(file).get_docs(Vocab())
    assert bytes_of(stored) == bytes_of(docs)


def bytes_of(docs):
    return DocBin(docs=docs, store_user_data=True).to_bytes()


def test_attributes_that_no_token_has_are_left_out(tmp_path):
    docs = [spacy.blank("en")("Neither tags nor heads.")]
    shards.write(iter(docs), tmp_path, shard_docs=10)
    assert DocBin().from_disk(tmp_path / "00000.spacy").attrs == [ORTH, NORM, SENT_START]


def reordered(shard):
    """Bytes as if a new version of DocBin ordered its attributes differently."""
    attrs = DocBin().attrs
    packed = DocBin(docs=shard, store_user_data=True)
    packed.attrs = [*attrs[1:], attrs[0]]
    return packed.to_bytes()


@pytest.mark.parametrize("change", [("Packer", None), ("Unpacker", None), ("_pack", reordered)], ids=lambda c: c[0])
def test_docbin_writes_shards_if_its_format_has_changed(tiny, tmp_path, monkeypatch, change):
    vocab, docs = annotated(tiny)
    expected = bytes_of(docs)
    shards._docbin_reads_shards.cache_clear()
    monkeypatch.setattr(shards, *change)
    try:
        assert not shards._docbin_reads_shards()
        shards.write(iter(docs), tmp_path, shard_docs=10)
        assert bytes_of(shards.read(shards.files(tmp_path), vocab)) == expected
    finally:
        shards._docbin_reads_shards.cache_clear()
    assert bytes_of(DocBin(store_user_data=True).from_disk(tmp_path / "00000.spacy").get_docs(Vocab())) == expected


def test_the_installed_docbin_reads_shards():
    shards._docbin_reads_shards.cache_clear()
    assert shards._docbin_reads_shards()


@pytest.fixture(scope="module")
def shard(tiny, tmp_path_factory):
    """The bytes of a shard, and its documents."""
    _, docs = annotated(tiny)
    folder = tmp_path_factory.mktemp("shard")
    shards.write(iter(docs), folder, 10)
    return (folder / "00000.spacy").read_bytes(), bytes_of(docs)


def damaged(data, changes):
    """Bytes that are flipped, cut off, swapped, overwritten or doubled."""
    content = bytearray(data)
    for kind, one, other in changes:
        i, j = one % max(1, len(content)), other % max(1, len(content))
        if not content or kind == "cut":
            content = content[:i]
        elif kind == "flip":
            content[i] ^= 1 << other % 8
        elif kind == "swap":
            content[i], content[j] = content[j], content[i]
        elif kind == "zeros":
            content[i : i + 64] = bytes(len(content[i : i + 64]))
        else:
            content[i:i] = content[j : j + 64]
    return bytes(content)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "swap", "zeros", "double"]), st.integers(0, 2**16), st.integers(0, 2**16)
    ),
    min_size=1,
    max_size=4,
)


@soak.fuzz("shards", many=8000)
@given(CHANGES)
def test_a_damaged_shard_is_named_and_never_used(tmp_path, shard, changes):
    data, expected = shard
    path = tmp_path / "00000.spacy"
    path.write_bytes(damaged(data, changes))
    try:
        docs = list(shards.read([path], Vocab()))
    except Problem as problem:
        assert str(problem).startswith(f"{path}: damaged, or ") and "\n" not in str(problem)
    else:  # a change that changes nothing, such as bytes after the end
        assert bytes_of(docs) == expected


def test_a_report_is_read_exactly(tmp_path):
    facts = {str(i): round(i / 9973, 4) for i in range(10_000)}
    write_json(tmp_path / shards.REPORT, facts)
    assert shards.report(tmp_path) == facts
