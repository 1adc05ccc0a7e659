"""A project that is trained on SST-2, for the benchmarks of what comes after training; made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from . import data
from .report import RESULTS

FOLDER = RESULTS / "sst2"  # a clone of this repository
SENTENCES = RESULTS / "imdb_sentences.jsonl"


def run(*targets: str, **changes: Any) -> Path:
    """Run stages in the project, with changes of params.yaml, such as distill={"students": {}}. RETURNS: its folder."""
    if not FOLDER.is_dir():
        subprocess.run(["git", "clone", "--quiet", data.ROOT, FOLDER], check=True)
    subprocess.run(["git", "checkout", "--quiet", "params.yaml"], cwd=FOLDER, check=True)
    subprocess.run(["git", "pull", "--quiet"], cwd=FOLDER, check=True)
    params = yaml.safe_load((FOLDER / "params.yaml").read_text("utf-8"))
    changes = {"data": {"folder": str(data.SHARED / "sst2")}, "finetune": {"epochs": 3}, **changes}
    for section, values in changes.items():
        params[section] |= values
    params["threads"] = 1  # results depend on the number of threads
    (FOLDER / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), "utf-8")
    env = {**os.environ, "PYTHONPATH": f"{FOLDER / 'src'}{os.pathsep}{FOLDER}"}
    for command in (["workflow.partition"], ["dvc", "repro", "--quiet", *targets]):
        subprocess.run([sys.executable, "-m", *command], cwd=FOLDER, env=env, check=True)
    return FOLDER


def sentences() -> Path:
    """The sentences of IMDB's reviews, of three tokens or more: a file of rows without labels."""
    if not SENTENCES.is_file():
        RESULTS.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in _sentences())
        SENTENCES.write_text(lines, "utf-8")
    return SENTENCES


def _sentences() -> Iterator[str]:
    import re

    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    for split in ("train", "test"):
        texts = (re.sub(r"<br\s*/?>", " ", row["text"]) for row in data.read_rows(data.SHARED / f"imdb/{split}.jsonl"))
        for doc in nlp.pipe(texts):
            yield from (" ".join(sent.text.split()) for sent in doc.sents if len(sent) >= 3)
