"""Documents on disk: DocBin files of a fixed number of documents, so that memory does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spacy.tokens import Doc, DocBin
from spacy.util import minibatch
from spacy.vocab import Vocab
from srsly.msgpack import Packer, Unpacker

SPLITS = ("train", "dev", "test")
ROW = "row"  # doc.user_data: file and line that the document comes from


def write(docs: Iterable[Doc], folder: Path, shard_docs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    packer = Packer(use_bin_type=True)
    for number, shard in enumerate(minibatch(docs, shard_docs)):
        found = DocBin(docs=shard)
        # As DocBin packs it, which makes a packer for each document and searches all installed packages for it.
        found.store_user_data, found.user_data = True, [packer.pack(dict(doc.user_data)) for doc in shard]
        found.to_disk(folder / f"{number:05}.spacy")


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
