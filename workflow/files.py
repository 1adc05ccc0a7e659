"""Reproducible JSON files, and digests of files and folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

IGNORED = {".snakemake_timestamp", "MODEL_CARD.md", "__pycache__"}  # not part of a result; as in .dvcignore


def write_json(path: Path, value: Any) -> None:
    """Write a file, all of it or nothing: nobody sees half of one, not even after this process was killed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
    part.replace(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and not IGNORED & set(p.parts)]
        lines = [f"{digest(p)}  {p.relative_to(path).as_posix()}" for p in files]
        return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
