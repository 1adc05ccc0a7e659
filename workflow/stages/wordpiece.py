"""Cut each sentence of a split into the model's wordpieces, and align them with the spaCy tokens."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import spacy
from spacy.tokens import Doc
from tqdm import tqdm

from rootstock.pieces.packing import padding_efficiency
from rootstock.pieces.pieces import Pieces

from ..corpus import shards
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    nlp = shards.blank(params.language)
    settings = params.wordpiece.model_dump(include={"spans", "long_sentences"})
    wordpiecer = nlp.add_pipe("trf_wordpiecer", config={"weights": str(inputs["weights"]), **settings})
    unknown = wordpiecer.tokenizer.unk_token_id
    gc.freeze()  # exclude loaded modules from garbage collection, which would take a tenth of the time for short texts
    sentencized = shards.report(inputs["sentences"])
    counts: Counter[str] = Counter()
    docs = shards.read(shards.files(inputs["sentences"]), nlp.vocab)
    docs = _counted(wordpiecer.pipe(docs), counts, unknown, params.wordpiece.words_per_batch)
    bar = tqdm(docs, inputs["sentences"].name, sentencized["documents"], unit=" docs", disable=None)
    shards.write(bar, outputs["wordpieces"], params.sentencize.shard_docs)
    report = {
        "labels": sentencized["labels"],
        "documents_per_label": sentencized["documents_per_label"],
        **counts,
        "pieces_per_token": round(counts["pieces"] / max(1, counts["tokens"]), 4),
        # applies where windows are padded: on a GPU, and for model families that need padding
        "padding_efficiency": round(counts["window_pieces"] / max(1, counts["computed_pieces"]), 4),
    }
    write_json(outputs["wordpieces"] / shards.REPORT, report)


def _counted(docs: Iterator[Doc], counts: Counter[str], unknown: int | None, budget: int) -> Iterator[Doc]:
    """Pass the documents on, and add to the counts. budget: wordpieces per batch."""
    for batch in spacy.util.minibatch(docs, 256):
        pieces, _ = Pieces.join([Pieces.of(doc) for doc in batch])
        windows_per_sentence = np.bincount(pieces.window_sentence, minlength=pieces.n_sentences)
        window_pieces = int(pieces.window_lengths.sum())
        efficiency = padding_efficiency(pieces.window_lengths, budget) if window_pieces else 1
        counts.update(
            documents=len(batch),
            tokens=pieces.n_tokens,
            sentences=pieces.n_sentences,
            pieces=len(pieces.ids),
            unknown_pieces=int((pieces.ids == unknown).sum()),
            windowed_sentences=int((windows_per_sentence > 1).sum()),
            truncated_tokens=int((pieces.sentence_tokens - pieces.kept_tokens).sum()),
            window_pieces=window_pieces,
            computed_pieces=round(window_pieces / efficiency),
        )
        yield from batch


if __name__ == "__main__":
    main("wordpiece", run)
