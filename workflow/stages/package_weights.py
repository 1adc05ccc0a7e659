"""Build a wheel of the pretrained weights without a head, for vectors and similarity."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import spacy
from spacy.language import Language
from thinc.api import to_numpy

from ..engine.errors import Problem
from ..engine.params import Params
from ..engine.stage import main
from ..model.card import model_card, origin
from ..model.determinism import make_deterministic
from ..model.sbom import write_sbom
from ..model.wheels import ask_installed, build_library, build_pipeline

# To compare vectors, and as an example in the model card: the company twice, and the fruit.
TEXTS = ["Apple shares rose on the news.", "Apple sold fewer iPhones this quarter.", "Apple pie is delicious."]


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    make_deterministic(params)
    out = outputs["vectors"]
    nlp = build(params, inputs["weights"])
    expected = np.stack([to_numpy(doc.vector) for doc in nlp.pipe(TEXTS)])
    readme = card(params, nlp, inputs["weights"])
    name = f"{params.language}_{params.package_weights.name}"
    with tempfile.TemporaryDirectory() as tmp:
        build_library(Path(tmp), out)
        build_pipeline(nlp, params.package_weights.model_dump(), readme, Path(tmp), out)
        write_sbom(name, out, inputs["weights"])
        check(name, out, expected, params.threads, Path(tmp))


def build(params: Params, weights: Path) -> Language:
    """The pipeline that is packaged."""
    nlp = spacy.blank(params.language)
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights)})
    nlp.add_pipe("trf_tok2vec", config={"weights": str(weights)})
    return nlp


def check(name: str, wheels: Path, expected: np.ndarray, threads: int, tmp: Path) -> None:
    """Install the wheels in a clean environment and compare the vectors there. Raises Problem if they differ."""
    question = {"texts": TEXTS, "attribute": "vector", "batch_size": len(TEXTS), "threads": threads}
    installed = np.array(ask_installed(wheels, name, question, tmp))
    if not np.allclose(installed, expected, atol=1e-5):
        raise Problem(f"vectors of the installed {name} differ from those of data/weights")
    print(f"installed in a clean environment (with this one's dependencies): {len(TEXTS)} vectors equal the weights'")


def card(params: Params, nlp: Language, weights: Path) -> str:
    """The model card of a pipeline without a head."""
    config = nlp.get_pipe("trf_tok2vec").transformer.config
    model = f"{config.model_type}, {config.num_hidden_layers} layers, width {config.hidden_size}"
    texts = ", ".join(f'"{text}"' for text in TEXTS)
    return model_card(
        params.language,
        params.package_weights,
        "A spaCy pipeline of pretrained transformer weights with no head: `doc.tensor`, `.vector` and `.similarity`.",
        {**origin(weights), "model": model},
        f"rose, sold, pie = nlp.pipe([{texts}])\nprint(rose[0].similarity(sold[0]), rose[0].similarity(pie[0]))",
    )


if __name__ == "__main__":
    main("package_weights", run)
