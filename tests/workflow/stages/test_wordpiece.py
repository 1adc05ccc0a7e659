import numpy as np
import pytest
import spacy

from rootstock.pieces.pieces import Pieces
from tests.conftest import ROOT
from workflow.corpus import shards
from workflow.engine import params
from workflow.files import write_json
from workflow.stages import wordpiece

TEXTS = ["He said: “Stop.” Nobody did (why?). Then", "One.", "No end", "Il dit : «Non.» Et voilà.…»"]


@pytest.mark.parametrize("sentencized", [True, False])
def test_pieces_equal_those_of_a_pipeline(tiny, tmp_path, sentencized):
    nlp = spacy.blank("en")
    if sentencized:
        nlp.add_pipe("sentencizer")
    docs = list(nlp.pipe(TEXTS))
    sentences, out = tmp_path / "sentences", tmp_path / "wordpieces"
    shards.write(docs, sentences, 3)
    write_json(sentences / shards.REPORT, {"labels": ["A", "B"], "documents": len(docs), "documents_per_label": {}})
    settings = params.load(ROOT / "params.yaml")
    settings = settings.model_copy(update={"wordpiece": settings.wordpiece.model_copy(update={"spans": "sentence"})})
    wordpiece.run(settings, {"sentences": sentences, "weights": tiny}, {"wordpieces": out})

    nlp.add_pipe("trf_wordpiecer", config={"weights": str(tiny)})
    stored = list(shards.read(shards.files(out), nlp.vocab))
    for doc, copy in zip(nlp.pipe(TEXTS), stored, strict=True):
        assert (copy.text, copy.to_array(["NORM"]).tolist()) == (doc.text, doc.to_array(["NORM"]).tolist())
        for name, value in vars(Pieces.of(doc)).items():
            np.testing.assert_array_equal(getattr(Pieces.of(copy), name), value, err_msg=name)
    report = shards.report(out)
    assert report["sentences"] == sum(Pieces.of(doc).n_sentences for doc in stored) == 7
    assert report["pieces"] == sum(len(Pieces.of(doc).ids) for doc in stored)
