"""Documents on disk: DocBin files of a fixed number of documents, so that memory does not grow with the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spacy.tokens import Doc, DocBin
from spacy.util import minibatch
from spacy.vocab import Vocab

SPLITS = ("train", "dev", "test")
ROW = "row"  # doc.user_data: file and line that the document comes from


def write(docs: Iterable[Doc], folder: Path, shard_docs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(minibatch(docs, shard_docs)):
        DocBin(docs=shard, store_user_data=True).to_disk(folder / f"{number:05}.spacy")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spacy"))


def read(paths: Iterable[Path], vocab: Vocab) -> Iterator[Doc]:
    for path in paths:
        yield from DocBin(store_user_data=True).from_disk(path).get_docs(vocab)
