"""Who cuts texts into tokens and pieces; and commands, which are timed whole. In the worker."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .data import texts, words


class Command:
    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        subprocess.run(self.command, check=True, stdout=subprocess.DEVNULL)
        return {"seconds": time.perf_counter() - start}


class Cutter:
    """Words a second of a folder's train split."""

    def __init__(self, weights: str, folder: str) -> None:
        self.texts = texts(Path(folder) / "train.jsonl")
        self.words = sum(map(words, self.texts))
        self.load(weights, folder)

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        self.cut()
        return {"words": self.words / (time.perf_counter() - start)}

    def load(self, weights: str, folder: str) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("sentencizer")
        self.wordpiecer = self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})

    def cut(self) -> None:
        for doc in self.nlp.pipe(self.texts):
            assert len(doc._.trf_word_pieces)


class New(Cutter):
    """Has forgotten the words of the round before, as if the texts were its first."""

    def cut(self) -> None:
        self.wordpiecer.chunks.known.clear()
        super().cut()


class Alone(Cutter):
    """spaCy's tokenizer, then the fast tokenizer, whose threads take all cores."""

    def cut(self) -> None:
        for text in self.texts:
            self.nlp.make_doc(text)
        self.wordpiecer.tokenizer.backend_tokenizer.encode_batch(self.texts)


class Stages(Cutter):
    """sentencize and wordpiece, what they read and write on disk included."""

    def load(self, weights: str, folder: str) -> None:
        from workflow import params, sentencize, wordpiece

        self.stages, self.weights = (sentencize, wordpiece), Path(weights)
        settings = params.load()
        self.params = settings.model_copy(update={"data": settings.data.model_copy(update={"folder": folder})})

    def cut(self) -> None:
        sentencize, wordpiece = self.stages
        with tempfile.TemporaryDirectory() as tmp:
            sentences, pieces = Path(tmp) / "sentences" / "train", Path(tmp) / "wordpieces" / "train"
            for folder in (sentences, pieces):
                folder.mkdir(parents=True)
            sentencize.run(self.params, {}, {"sentences": sentences})
            wordpiece.run(self.params, {"sentences": sentences, "weights": self.weights}, {"wordpieces": pieces})
