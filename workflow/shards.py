"""Documents on disk: DocBin files of a fixed number of documents, so that memory does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from spacy.attrs import ENT_IOB, HEAD, POS, SENT_START, SPACY
from spacy.tokens import Doc, DocBin
from spacy.util import minibatch
from spacy.vocab import Vocab
from srsly.msgpack import Packer, Unpacker

SPLITS = ("train", "dev", "test")
NUMBERS = {HEAD, ENT_IOB, POS, SENT_START}  # attributes of a token that are no hashes of strings
ROW = "row"  # doc.user_data: file and line that the document comes from


def write(docs: Iterable[Doc], folder: Path, shard_docs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(minibatch(docs, shard_docs)):
        _packed(shard).to_disk(folder / f"{number:05}.spacy")


def _packed(shard: list[Doc]) -> DocBin:
    """All that DocBin would hold of documents of one vocabulary, but attributes that no token has.

    DocBin's `add` looks up nine strings for each token, and makes a packer for each document.
    """
    found = DocBin()
    tokens = [doc.to_array(found.attrs) for doc in shard]
    together = np.concatenate(tokens)
    held = np.flatnonzero(together.any(axis=0)).tolist() or [0]
    found.attrs = [found.attrs[i] for i in held]
    found.tokens = [array[:, held] for array in tokens]
    found.spaces = [doc.to_array(SPACY).astype(bool)[:, None] for doc in shard]
    hashes = [i for i, attr in zip(held, found.attrs, strict=True) if attr not in NUMBERS]
    found.strings = set(map(shard[0].vocab.strings.__getitem__, np.unique(together[:, hashes]).tolist()))
    found.strings |= DocBin(docs=[doc for doc in shard if doc.spans]).strings
    found.flags = [{"has_unknown_spaces": doc.has_unknown_spaces} for doc in shard]
    found.cats = [doc.cats for doc in shard]
    found.span_groups = [doc.spans.to_bytes() for doc in shard]
    packer = Packer(use_bin_type=True)
    found.store_user_data, found.user_data = True, [packer.pack(dict(doc.user_data)) for doc in shard]
    return found


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
