"""Apply a saved pipeline to a stream of texts: in order, in bounded memory, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TypeVar

import spacy

from rootstock import outcomes
from rootstock.outcomes import Outcome

from ..engine.errors import Problem
from ..engine.params import Params
from .determinism import make_deterministic

BATCH = 128  # documents that the pipeline gets at a time
CHUNK = 8 * BATCH  # documents that a process gets at a time
CHARACTERS = 1_000_000  # of a chunk; one document may have more

# oneDNN, and PyTorch's code for it, each keep prepared code for the last 1,024 shapes of a product: 200 MB in all.
CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")

Row = TypeVar("Row")


class Predictor:
    def __init__(self, model: str | Path) -> None:
        """model: a folder or an installed package. Raises Problem if the pipeline sets nothing that can be reported."""
        for cache in CACHES:
            os.environ.setdefault(cache, "32")
        try:
            self.nlp = spacy.load(model)
        except Exception as error:  # of many kinds, when a package or a folder is no pipeline
            raise Problem(f"{model}: spaCy cannot load it ({' '.join(str(error).split())})") from None
        self.nlp.max_length = sys.maxsize  # the limit is meant for parsers; a row may have more
        try:
            self.read = outcomes.reader(self.nlp)
        except ValueError as error:
            raise Problem(str(error)) from None

    def __call__(self, texts: Iterable[str]) -> list[Outcome]:
        # What spaCy remembers of new words is forgotten again, so that memory does not grow with the corpus.
        with self.nlp.memory_zone():
            return [self.read(doc) for doc in self.nlp.pipe(texts, batch_size=BATCH)]


def predict(
    model: str | Path, rows: Iterable[Row], text_of: Callable[[Row], str], params: Params, processes: int
) -> Iterator[tuple[Row, Outcome]]:
    """Predict a stream of rows, in order. The processes share the threads.

    Raises Problem if the model cannot be loaded or predicts nothing, and if a process was killed.
    """
    chunks = _chunks(rows, text_of)
    if processes == 1:
        make_deterministic(params)
        predictor = Predictor(model)
        for chunk in chunks:
            yield from zip(chunk, predictor(map(text_of, chunk)), strict=True)
        return
    context = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads, but not their state
    ranks = context.SimpleQueue()
    for rank in range(processes):
        ranks.put(rank)
    with ProcessPoolExecutor(processes, context, _begin, (model, params, ranks, processes)) as pool:
        waiting: deque[tuple[list[Row], Future[list[Outcome]]]] = deque()
        try:
            for chunk in chunks:
                waiting.append((chunk, pool.submit(_work, list(map(text_of, chunk)))))
                if len(waiting) > 2 * processes:
                    yield from _taken(waiting)
            while waiting:
                yield from _taken(waiting)
        except BrokenProcessPool:
            raise Problem(
                "a process was killed, perhaps because the machine ran out of memory: use fewer --processes"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _chunks(rows: Iterable[Row], text_of: Callable[[Row], str]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += len(text_of(row))
        if len(chunk) == CHUNK or characters >= CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _taken(waiting: deque[tuple[list[Row], Future[list[Outcome]]]]) -> Iterator[tuple[Row, Outcome]]:
    chunk, future = waiting.popleft()
    return zip(chunk, future.result(), strict=True)


def _begin(model: str | Path, params: Params, ranks: SimpleQueue[int], processes: int) -> None:
    """Load the model in a new process."""
    global _predictor
    make_deterministic(params, ranks.get(), processes)
    try:
        _predictor = Predictor(model)
    except Problem as problem:  # an error here would end the process, and nobody could say why
        _predictor = problem


def _work(texts: list[str]) -> list[Outcome]:
    if isinstance(_predictor, Problem):
        raise _predictor
    return _predictor(texts)


_predictor: Predictor | Problem
