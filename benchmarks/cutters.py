"""Who cuts texts into tokens and pieces; and commands, which are timed whole. In the worker."""

from __future__ import annotations

import gc
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

    def __init__(self, weights: str, folder: str, first: bool) -> None:
        """first: whether each round is its first, for which it loads; or it knows the words of the round before."""
        self.texts = texts(Path(folder) / "train.jsonl")
        self.words = sum(map(words, self.texts))
        self.weights, self.folder, self.first = weights, folder, first
        self.load()

    def __call__(self) -> dict[str, Any]:
        if self.first:
            self.load()
            gc.collect()  # what the round before has left
        start = time.perf_counter()
        self.cut()
        return {"words": self.words / (time.perf_counter() - start)}

    def load(self) -> None:
        import spacy

        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("sentencizer")
        self.wordpiecer = self.nlp.add_pipe("trf_wordpiecer", config={"weights": self.weights})

    def cut(self) -> None:
        for doc in self.nlp.pipe(self.texts):
            last = doc
        assert len(last._.trf_word_pieces)


class Alone(Cutter):
    """spaCy's tokenizer, then the fast tokenizer, whose threads take all cores."""

    def cut(self) -> None:
        for text in self.texts:
            self.nlp.make_doc(text)
        self.wordpiecer.tokenizer.backend_tokenizer.encode_batch(self.texts)


class Stages(Cutter):
    """sentencize and wordpiece, what they read and write on disk included."""

    def load(self) -> None:
        from workflow.engine import params
        from workflow.stages import sentencize, wordpiece

        self.stages = sentencize, wordpiece
        settings = params.load()
        self.params = settings.model_copy(update={"data": settings.data.model_copy(update={"folder": self.folder})})

    def cut(self) -> None:
        sentencize, wordpiece = self.stages
        with tempfile.TemporaryDirectory() as tmp:
            sentences, pieces = Path(tmp) / "sentences" / "train", Path(tmp) / "wordpieces" / "train"
            for folder in (sentences, pieces):
                folder.mkdir(parents=True)
            sentencize.run(self.params, {}, {"sentences": sentences})
            wordpiece.run(self.params, {"sentences": sentences, "weights": Path(self.weights)}, {"wordpieces": pieces})
