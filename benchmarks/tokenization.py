"""Contenders that split texts into tokens, sentences and wordpieces."""

from __future__ import annotations

import gc
import tempfile
import time
from pathlib import Path
from typing import Any

from .data import count_words, read_texts


class Pipeline:
    """Words per second of `nlp.pipe` with the sentencizer and `trf_wordpiecer`, on the train split of a folder."""

    def __init__(self, weights: str, folder: str, cold: bool) -> None:
        """cold: reload before each round, so that all words are new; otherwise caches of earlier rounds are warm."""
        self.texts = read_texts(Path(folder) / "train.jsonl")
        self.words = sum(map(count_words, self.texts))
        self.weights, self.folder, self.cold = weights, folder, cold
        self.load()

    def __call__(self) -> dict[str, Any]:
        if self.cold:
            self.load()
            gc.collect()  # frees the objects of the previous round
        start = time.perf_counter()
        self.tokenize()
        return {"words_per_second": self.words / (time.perf_counter() - start)}

    def load(self) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("sentencizer")
        self.wordpiecer = self.nlp.add_pipe("trf_wordpiecer", config={"weights": self.weights})

    def tokenize(self) -> None:
        for doc in self.nlp.pipe(self.texts):
            last = doc
        assert len(last._.trf_word_pieces)


class TokenizersAlone(Pipeline):
    """spaCy's tokenizer, then the fast tokenizer of Transformers in one call, which uses threads on all cores."""

    def tokenize(self) -> None:
        for text in self.texts:
            self.nlp.make_doc(text)
        self.wordpiecer.tokenizer.backend_tokenizer.encode_batch(self.texts)


class Stages(Pipeline):
    """The workflow stages sentencize and wordpiece, including what they read from and write to disk."""

    def load(self) -> None:
        from workflow.engine import params
        from workflow.stages import sentencize, wordpiece

        self.stages = sentencize, wordpiece
        settings = params.load()
        self.params = settings.model_copy(update={"data": settings.data.model_copy(update={"folder": self.folder})})

    def tokenize(self) -> None:
        sentencize, wordpiece = self.stages
        with tempfile.TemporaryDirectory() as tmp:
            sentences, pieces = Path(tmp) / "sentences" / "train", Path(tmp) / "wordpieces" / "train"
            for folder in (sentences, pieces):
                folder.mkdir(parents=True)
            sentencize.run(self.params, {}, {"sentences": sentences})
            wordpiece.run(self.params, {"sentences": sentences, "weights": Path(self.weights)}, {"wordpieces": pieces})
