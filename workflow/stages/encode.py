"""Run a frozen transformer once and store its features, so that a sweep of heads costs little more than one head."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from ..corpus import features, shards
from ..corpus.predictions import BATCH
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model.determinism import make_deterministic
from ..model.pipeline import build


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    out = outputs["features"]
    if not params.encode.features:
        write_json(out / features.REPORT, {})
        return
    make_deterministic(params)
    nlp = build(params, inputs["weights"], [])
    tok2vec, head = nlp.get_pipe("trf_tok2vec"), nlp.get_pipe("trf_textcat")
    for split in shards.SPLITS:
        folder = inputs["wordpieces"] / split
        # The same batches as in `predict`, so that the features are equal to those that it computes.
        docs = tok2vec.pipe(shards.read(shards.files(folder), nlp.vocab), batch_size=BATCH)
        bar = tqdm(docs, split, shards.report(folder)["documents"], unit=" docs", disable=None)
        reduced = (features.reduced(doc, head.model.ops.to_numpy(head.rows(doc)[0])) for doc in bar)
        shards.write(reduced, out / split, params.sentencize.shard_docs)
    write_json(out / features.REPORT, features.settings(nlp))


if __name__ == "__main__":
    main("encode", run)
