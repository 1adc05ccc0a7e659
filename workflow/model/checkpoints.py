"""Checkpoints of a training: one at a time, complete or not there, and read only if no byte of it has changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from spacy.language import Language
from thinc.api import Optimizer

from rootstock.training import state

from ..files import digest, write_json

PROGRESS, DIGESTS = "progress.json", "sha256.json"


class Checkpoints:
    """In `folder`: step-N, the state of the training after N steps, and best-N, the best pipeline so far.

    They take four times the space of the weights, and seven times while a checkpoint replaces the one before.
    """

    def __init__(self, folder: Path, minutes: float) -> None:
        """minutes: between two checkpoints."""
        self.folder, self.seconds = folder, 60 * minutes
        self.part = folder / f".{os.getpid()}.part"  # what is not complete yet
        self.last = time.monotonic()

    def is_due(self) -> bool:
        return time.monotonic() - self.last > self.seconds

    def find(self) -> Path | None:
        """The checkpoint to continue from. One that was changed is removed, with a line that names the file."""
        for path in sorted(self.folder.glob("step-*"), key=_step, reverse=True):
            if damaged := self._damaged(path):
                print(f"{path}: {damaged} is damaged: this checkpoint is not used, and removed", file=sys.stderr)
                shutil.rmtree(path)
            else:
                return path
        return None

    def _damaged(self, path: Path) -> str | None:
        """The first file or folder that is not as it was written."""
        try:
            digests = dict(json.loads((path / DIGESTS).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return DIGESTS
        changed = [name for name, sha256 in digests.items() if not self._has(path, name, sha256)]
        return next(iter(changed), None if PROGRESS in digests else DIGESTS)

    def _has(self, path: Path, name: str, sha256: str) -> bool:
        file = self._path(path, name)
        return file.exists() and digest(file) == sha256

    def _path(self, path: Path, name: str) -> Path:
        return (self.folder if name.startswith("best-") else path) / name

    def read(self, path: Path, nlp: Language, optimizer: Optimizer) -> dict[str, Any]:
        """Restore weights and moments. RETURNS: the progress that `write` got."""
        state.load(path, nlp, optimizer)
        return json.loads((path / PROGRESS).read_text("utf-8"))

    def write(self, step: int, progress: dict[str, Any], nlp: Language, optimizer: Optimizer) -> bool:
        """Replace the checkpoint. RETURNS: False if that fails, on a full disk for example; the one before stays.

        progress: what JSON can hold; `best`: the name of the best pipeline, or None.
        """
        self.last = time.monotonic()
        try:
            self._write(step, progress, nlp, optimizer)
        except (OSError, SafetensorError) as error:  # which must not cost the training
            shutil.rmtree(self.part, ignore_errors=True)
            print(f"no checkpoint after step {step}: {error}", file=sys.stderr)
            return False
        return True

    def _write(self, step: int, progress: dict[str, Any], nlp: Language, optimizer: Optimizer) -> None:
        path = self.folder / f"step-{step}"
        if path.exists():  # the same state
            return
        part = self._new_part()
        state.save(part, nlp, optimizer)
        write_json(part / PROGRESS, progress)
        best = [progress["best"]] if progress["best"] else []
        names = [*(path.name for path in part.iterdir()), *best]
        write_json(part / DIGESTS, {name: digest(self._path(part, name)) for name in names})
        for written in [part, *(self.folder / name for name in best)]:
            _sync(written)
        part.rename(path)
        _sync(self.folder, recursive=False)
        self._remove_all_but(path.name, *best)

    def keep_best(self, nlp: Language, step: int) -> str:
        """Save a pipeline that is better than those before. RETURNS: its name. `write` removes the one before."""
        part, path = self._new_part(), self.folder / f"best-{step}"
        nlp.to_disk(part)
        shutil.rmtree(path, ignore_errors=True)
        part.rename(path)
        return path.name

    def copy_best(self, name: str, target: Path) -> None:
        """Copy the best pipeline. It is not moved, because this attempt may be killed, too."""
        shutil.copytree(self.folder / name, target, copy_function=_link)

    def _new_part(self) -> Path:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self.part

    def _remove_all_but(self, *names: str) -> None:
        for path in self.folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _link(source: str, target: str) -> None:
    """A hard link, which takes no time and space, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _sync(path: Path, recursive: bool = True) -> None:
    """Write to the disk itself, so that a power failure does not leave the name without the contents."""
    for each in [*(path.rglob("*") if recursive else []), path]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
