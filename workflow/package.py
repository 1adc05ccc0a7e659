"""Build the installable pipeline, install it where this checkout cannot be seen, and hold it against evaluate."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any

import spacy
from spacy.cli.package import package

from .errors import Problem
from .params import Params
from .predictions import BATCH
from .stage import main

EPOCH = "946684800"  # 2000-01-01: the time stamp of every file in a wheel
CHECKED = 4 * BATCH  # documents of test; whole batches, so that the same numbers must come out


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    out = outputs["package"]
    name = f"{params.language}_{params.package.name}"
    card = model_card(params, inputs)
    with tempfile.TemporaryDirectory() as tmp:
        build_library(Path(tmp), out)
        build_pipeline(params, inputs["model"] / "pipeline", card, Path(tmp), out)
        check(name, out, inputs["evaluation"] / "test.jsonl", params.threads, Path(tmp))
    (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def build_library(tmp: Path, out: Path) -> None:
    """The wheel of rootstock, from a copy: a build leaves files beside its sources."""
    source = tmp / "library"
    shutil.copytree("src/rootstock", source / "src/rootstock", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE"):
        shutil.copy(file, source)
    build_wheel(source, out)


def build_pipeline(params: Params, pipeline: Path, card: str, tmp: Path, out: Path) -> None:
    nlp = spacy.load(pipeline)
    nlp.meta.update(
        name=params.package.name,
        version=params.package.version,
        description=params.package.description,
    )
    nlp.to_disk(tmp / "pipeline")
    (tmp / "pipeline" / "README.md").write_text(card, encoding="utf-8")
    (tmp / "source").mkdir()
    package(tmp / "pipeline", tmp / "source", create_sdist=False, create_wheel=False)
    [source] = (tmp / "source").iterdir()
    build_wheel(source, out)


def build_wheel(source: Path, out: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    _call([*pip, "--wheel-dir", out, source], env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH})


def check(name: str, wheels: Path, predictions: Path, threads: int, tmp: Path) -> None:
    """Install the wheels in a new environment and compare its predictions. Raises Problem where they differ."""
    environment = tmp / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    # The dependencies are borrowed; a .pth of the other environment, such as that of this checkout, is not followed.
    [site_packages] = environment.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", "--no-index"]
    _call([*pip, *sorted(wheels.glob("*.whl"))])

    with predictions.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(CHECKED), strict=False)]
    question = {"name": name, "texts": [row["text"] for row in rows], "batch_size": BATCH, "threads": threads}
    (tmp / "question.json").write_text(json.dumps(question))
    script = Path(__file__).with_name("check_package.py").resolve()
    _call([python, "-I", script, tmp / "question.json", tmp / "answer.json"], cwd=tmp)
    answer = json.loads((tmp / "answer.json").read_text())
    outside = [path for path in answer["seen"] if not Path(path).is_relative_to(environment.resolve())]
    if outside:
        raise Problem(f"the check of {name} saw {outside[0]}, outside of its own environment")
    differing = [r for r, s in zip(rows, answer["scores"], strict=True) if not _close(r["scores"], s)]
    if differing:
        raise Problem(f"the installed {name} predicts otherwise than evaluate, first for {differing[0]['row']}")
    print(f"installed in a clean environment, dependencies borrowed: {len(rows)} predictions equal evaluate's")
    print(
        "next: `python -m workflow.ledger` sums the run up and records it in MLflow (`make repro` does that by itself)"
    )


def _close(one: dict[str, float], other: dict[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[label] - other[label]) < 1e-6 for label in one)


def _call(command: list[Any], **options: Any) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise Problem(f"{command[0]} {command[1]} ... failed:\n{done.stdout}{done.stderr}".rstrip())


def model_card(params: Params, inputs: dict[str, Path]) -> str:
    """What somebody who meets the wheel wants to know; no measured time or energy, so that its bytes repeat."""
    weights = json.loads((inputs["weights"] / "weights.json").read_text("utf-8"))
    metrics = json.loads((inputs["evaluation"] / "metrics.json").read_text("utf-8"))
    labels = list(metrics["test"]["f1"])
    scores = "\n".join(
        f"| {split} | {m['documents']} | {m['accuracy']:.4f} | {m['accuracy_low']:.4f} to {m['accuracy_high']:.4f} "
        f"| {m['macro_f1']:.4f} | {m['calibration_error']:.4f} |"
        for split, m in metrics.items()
    )
    return f"""# {params.language}_{params.package.name} {params.package.version}

{params.package.description}

A spaCy pipeline with a transformer, fine-tuned for text classification by Rootstock.

| | |
|---|---|
| labels | {", ".join(labels)} ({"one" if params.data.exclusive else "any number"} per document) |
| pretrained weights | {weights["source"]}, licence: {weights["licence"]} |
| sha256 of model.safetensors | {weights["sha256"]["model.safetensors"]} |
| trained on | {params.data.folder} ({"transformer and head" if params.finetune.trainable else "head only"}) |
| seed | {params.seed} |

| split | documents | accuracy | {params.evaluate.confidence:.0%} interval | macro F1 | calibration error |
|---|---|---|---|---|---|
{scores}

```python
import spacy

nlp = spacy.load("{params.language}_{params.package.name}")
print(nlp("Not bad at all.").cats)
```
"""


if __name__ == "__main__":
    main("package", run)
