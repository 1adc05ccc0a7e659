"""Documents on disk, as DocBin files of a fixed number of documents: memory does not grow with the corpus."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import spacy
from spacy.attrs import ENT_IOB, HEAD, IS_PUNCT, NORM, POS, SENT_START, SPACY
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.util import minibatch
from spacy.vocab import Vocab
from srsly.msgpack import Packer, Unpacker

SPLITS = ("train", "dev", "test")
NUMBERS = {HEAD, ENT_IOB, POS, SENT_START}  # attributes of a token that are no hashes of strings
COMPRESSION = 2  # of nine levels of zlib: DocBin writes with 6, which takes three times as long for a sixth fewer bytes
ROW = "row"  # doc.user_data: file and line that the document comes from


def blank(language: str) -> Language:
    """spaCy's tokenizer, for a stage that makes shards.

    Of what words look like the sentencizer asks one thing, and shards keep another: all else is a fifth of the time.
    """
    nlp = spacy.blank(language)
    nlp.vocab.lex_attr_getters = {attr: nlp.vocab.lex_attr_getters[attr] for attr in (IS_PUNCT, NORM)}
    return nlp


def write(docs: Iterable[Doc], folder: Path, shard_docs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(minibatch(docs, shard_docs)):
        (folder / f"{number:05}.spacy").write_bytes(_packed(shard))


def _packed(shard: list[Doc]) -> bytes:
    """What DocBin would write of documents of one vocabulary, but attributes that no token has.

    DocBin's `add` looks up nine strings for each token, and makes a packer for each document. Its format:
    https://spacy.io/api/docbin
    """
    attrs = DocBin().attrs
    tokens = np.concatenate([doc.to_array(attrs) for doc in shard])
    held = np.flatnonzero(tokens.any(axis=0)).tolist() or [0]
    hashes = [i for i in held if attrs[i] not in NUMBERS]
    strings = set(map(shard[0].vocab.strings.__getitem__, np.unique(tokens[:, hashes]).tolist()))
    strings |= DocBin(docs=[doc for doc in shard if doc.spans]).strings
    packer = Packer(use_bin_type=True)
    packed = packer.pack(
        {
            "version": "0.1",
            "attrs": [attrs[i] for i in held],
            "tokens": tokens[:, held].tobytes(),
            "spaces": np.concatenate([doc.to_array(SPACY) for doc in shard]).astype(bool).tobytes(),
            "lengths": np.array([len(doc) for doc in shard], "int32").tobytes(),
            "strings": sorted(strings),
            "cats": [doc.cats for doc in shard],
            "flags": [{"has_unknown_spaces": doc.has_unknown_spaces} for doc in shard],
            "span_groups": [doc.spans.to_bytes() for doc in shard],
            "user_data": [packer.pack(dict(doc.user_data)) for doc in shard],
        }
    )
    return zlib.compress(packed, COMPRESSION)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spacy"))


def read(paths: Iterable[Path], vocab: Vocab) -> Iterator[Doc]:
    unpacker = Unpacker(use_list=False, raw=False)
    for path in paths:
        shard = DocBin().from_disk(path)
        packed, shard.user_data = shard.user_data, []
        for doc, user_data in zip(shard.get_docs(vocab), packed, strict=True):
            unpacker.feed(user_data)
            doc.user_data.update(unpacker.unpack())
            yield doc
