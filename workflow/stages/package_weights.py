"""Build a wheel of the pretrained weights with no head: vectors and similarity out of the box."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from thinc.api import to_numpy

from ..engine.errors import Problem
from ..engine.params import Params
from ..engine.stage import main, set_torch
from ..model.wheels import ask_installed, build_library, build_pipeline

# What the installed wheel is asked about. A company twice, and a fruit.
TEXTS = ["Apple shares rose on the news.", "Apple sold fewer iPhones this quarter.", "Apple pie is delicious."]


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    set_torch(params)
    out = outputs["vectors"]
    nlp = build(params, inputs["weights"])
    expected = np.stack([to_numpy(doc.vector) for doc in nlp.pipe(TEXTS)])
    card = model_card(params, nlp, json.loads((inputs["weights"] / "weights.json").read_text("utf-8")))
    with tempfile.TemporaryDirectory() as tmp:
        build_library(Path(tmp), out)
        build_pipeline(nlp, params.package_weights.model_dump(), card, Path(tmp), out)
        check(f"{params.language}_{params.package_weights.name}", out, expected, params.threads, Path(tmp))


def build(params: Params, weights: Path) -> Language:
    nlp = spacy.blank(params.language)
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights)})
    nlp.add_pipe("trf_tok2vec", config={"weights": str(weights)})
    return nlp


def check(name: str, wheels: Path, expected: np.ndarray, threads: int, tmp: Path) -> None:
    """Raises Problem where the installed pipeline gives other vectors."""
    question = {"texts": TEXTS, "attribute": "vector", "batch_size": len(TEXTS), "threads": threads}
    found = np.array(ask_installed(wheels, name, question, tmp))
    if not np.allclose(found, expected, atol=1e-5):
        raise Problem(f"the installed {name} gives other vectors than data/weights")
    print(f"installed in a clean environment, dependencies borrowed: {len(TEXTS)} vectors equal those of the weights")


def model_card(params: Params, nlp: Language, weights: dict[str, Any]) -> str:
    settings, config = params.package_weights, nlp.get_pipe("trf_tok2vec").transformer.config
    return f"""# {params.language}_{settings.name} {settings.version}

{settings.description}

A spaCy pipeline of pretrained transformer weights with no head: `doc.tensor`, `.vector` and `.similarity`.

| | |
|---|---|
| pretrained weights | {weights["source"]}, licence: {weights["licence"]} |
| sha256 of model.safetensors | {weights["sha256"]["model.safetensors"]} |
| model | {config.model_type}, {config.num_hidden_layers} layers, width {config.hidden_size} |

```python
import spacy

nlp = spacy.load("{params.language}_{settings.name}")
rose, sold, pie = nlp.pipe(["{TEXTS[0]}", "{TEXTS[1]}", "{TEXTS[2]}"])
print(rose[0].similarity(sold[0]), rose[0].similarity(pie[0]))
```
"""


if __name__ == "__main__":
    main("package_weights", run)
