"""Documents on disk, in DocBin files with a fixed number of documents, so that memory does not grow with the corpus."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.attrs import ENT_IOB, HEAD, IS_PUNCT, NORM, POS, SENT_START, SPACY
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.util import minibatch
from spacy.vocab import Vocab
from srsly.msgpack import Packer, Unpacker

from ..engine.errors import Problem

SPLITS = ("train", "dev", "test")
NUMBERS = {HEAD, ENT_IOB, POS, SENT_START}  # token attributes that are not hashes of strings
COMPRESSION = 2  # zlib level; DocBin uses 6, which takes three times as long and saves a sixth of the bytes
REPORT = "report.json"
ROW = "row"  # key in doc.user_data: the file and line that the document comes from


def blank(language: str) -> Language:
    """spaCy's tokenizer, for a stage that writes shards.

    Lexical attributes are limited to those that the sentencizer or shards use, which saves a fifth of the time.
    """
    nlp = spacy.blank(language)
    nlp.vocab.lex_attr_getters = {attr: nlp.vocab.lex_attr_getters[attr] for attr in (IS_PUNCT, NORM)}
    return nlp


def write(docs: Iterable[Doc], folder: Path, shard_docs: int) -> None:
    """Write shards of `shard_docs` documents. All documents must share one vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    pack = _pack if _docbin_reads_shards() else _pack_with_docbin
    for number, shard in enumerate(minibatch(docs, shard_docs)):
        (folder / f"{number:05}.spacy").write_bytes(pack(shard))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spacy"))


def read(paths: Iterable[Path], vocab: Vocab) -> Iterator[Doc]:
    """Raises Problem if a shard is damaged: zlib, which compresses it, adds a checksum."""
    unpack = _unpack if _docbin_reads_shards() else _unpack_with_docbin
    for path in paths:
        data = path.read_bytes()
        try:
            yield from unpack(data, vocab)
        except Exception as error:  # of any kind: spaCy's for a wrong checksum, or Python's if this is no shard
            raise Problem(f"{path}: damaged, or no shard: delete it, and run again") from error


def report(folder: Path) -> dict[str, Any]:
    """What a stage says about a split: its labels, its number of documents, and more. Python reads floats exactly."""
    return json.loads((folder / REPORT).read_text("utf-8"))


def _pack(shard: list[Doc]) -> bytes:
    """The format of DocBin (https://spacy.io/api/docbin), without attributes that no token has.

    Faster than DocBin's `add`, which looks up nine strings for each token and creates a packer for each document.
    """
    attrs = DocBin().attrs
    tokens = np.concatenate([doc.to_array(attrs) for doc in shard])
    used = np.flatnonzero(tokens.any(axis=0)).tolist() or [0]
    hashes = [i for i in used if attrs[i] not in NUMBERS]
    strings = set(map(shard[0].vocab.strings.__getitem__, np.unique(tokens[:, hashes]).tolist()))
    strings |= DocBin(docs=[doc for doc in shard if doc.spans]).strings
    packer = Packer(use_bin_type=True)
    packed = packer.pack(
        {
            "version": "0.1",
            "attrs": [attrs[i] for i in used],
            "tokens": tokens[:, used].tobytes(),
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


def _unpack(data: bytes, vocab: Vocab) -> Iterator[Doc]:
    """Like DocBin, but with one unpacker for the user data of all documents."""
    unpacker = Unpacker(use_list=False, raw=False)
    shard = DocBin().from_bytes(data)
    packed, shard.user_data = shard.user_data, []
    for doc, user_data in zip(shard.get_docs(vocab), packed, strict=True):
        unpacker.feed(user_data)
        doc.user_data.update(unpacker.unpack())
        yield doc


def _pack_with_docbin(shard: list[Doc]) -> bytes:
    return DocBin(docs=shard, store_user_data=True).to_bytes()


def _unpack_with_docbin(data: bytes, vocab: Vocab) -> Iterator[Doc]:
    return DocBin(store_user_data=True).from_bytes(data).get_docs(vocab)


@cache
def _docbin_reads_shards() -> bool:
    """Whether this module and the installed DocBin read each other's shards. If not, shards are left to DocBin."""
    doc = Doc(Vocab(), ["One", ".", "Two"], [False, True, False], sent_starts=[True, False, True])
    doc.cats = {"A": 1.0}
    doc.user_data[ROW] = {"where": "file:1", "numbers": np.arange(3)}
    expected = doc.to_bytes()
    try:
        pairs = [(_pack, _unpack), (_pack, _unpack_with_docbin), (_pack_with_docbin, _unpack)]
        return all(next(unpack(pack([doc]), Vocab())).to_bytes() == expected for pack, unpack in pairs)
    except Exception:  # from any change in DocBin
        return False
