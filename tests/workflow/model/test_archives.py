"""Wheels from anyone: nothing is written outside of the folder, and nothing before everything has been checked."""

import io
import os
import stat
import struct
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import soak
from workflow.engine.errors import Problem
from workflow.model import archives
from workflow.model.archives import unpack

WANTED = ("config.json", "*.safetensors")


def zipped(*entries, packing=zipfile.ZIP_DEFLATED):
    """The bytes of a zip file with entries (name or ZipInfo, content)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return file.getvalue()


def entry(name, mode=0o644, kind=stat.S_IFREG):
    info = zipfile.ZipInfo(name)
    info.external_attr = (kind | mode) << 16
    return info


@contextmanager
def unpacked(content, wanted=WANTED):
    """A folder that a wheel is unpacked into, inside of another with nothing else."""
    with tempfile.TemporaryDirectory() as tmp:
        wheel, folder = Path(tmp) / "a.whl", Path(tmp) / "outer/unpacked"
        wheel.write_bytes(content)
        folder.parent.mkdir()
        try:
            unpack(wheel, wanted, folder)
            yield folder
        finally:
            assert [path.name for path in Path(tmp).iterdir() if path != wheel] == ["outer"]
            assert {path.name for path in folder.parent.iterdir()} <= {"unpacked"}
            assert not [path for path in folder.rglob("*") if path.is_symlink()]


def test_only_what_is_wanted_is_unpacked():
    names = ["a/config.json", "a/model.safetensors", "a/code.py", "config.json", "a/pytorch_model.bin", "a/b/"]
    with unpacked(zipped(*[(name, name) for name in names])) as folder:
        files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {name: name for name in ("a/config.json", "a/model.safetensors", "config.json")}


HOSTILE = [
    "../config.json", "a/../../config.json", "/config.json", "//host/share/config.json", "C:/config.json", "c:config.json",
    "\\\\host\\share\\config.json", "..\\config.json", "a\\..\\..\\config.json", "a/..", ".",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("wanted", [WANTED, ("other",)])
def test_a_name_that_leads_out_refuses_the_wheel(name, wanted):
    stand_in = "X" * len(name.encode())  # zipfile would change some of these names
    content = zipped(("a/config.json", "{}"), (stand_in, "{}")).replace(stand_in.encode(), name.encode())
    with (
        pytest.raises(Problem, match=r"a\.whl: entry .* is refused: its name leads out of the folder"),
        unpacked(content, wanted),
    ):
        pass


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind):
    content = zipped((entry("a", kind=kind), "/etc"), (entry("a/config.json"), "{}"))
    with pytest.raises(Problem, match="entry 'a' is refused: it is a link or a device"), unpacked(content):
        pass


def test_a_name_twice_is_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped((entry("config.json"), "{}"), (entry("config.json"), "[]"))
    with pytest.raises(Problem, match=r"entry 'config.json' is refused: it is there twice"), unpacked(content):
        pass


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_the_methods_of_wheels_are_unpacked(packing):
    with (
        pytest.raises(Problem, match="refused: it is encrypted, or packed in"),
        unpacked(zipped(("config.json", "{}"), packing=packing)),
    ):
        pass
    content = bytearray(zipped(("config.json", "{}")))
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag of encryption
    with pytest.raises(Problem, match="refused: it is encrypted, or packed in"), unpacked(bytes(content)):
        pass


def test_a_bomb_is_refused_before_anything_is_written(monkeypatch):
    bomb = zipped(("config.json", "{}"), ("model.safetensors", bytes(50_000_000)))
    with pytest.raises(Problem, match=rf"a\.whl has {len(bomb)} bytes, but unpacks to 50000002"), unpacked(bomb):
        pass
    many = zipped(*[(f"{i}/config.json", "{}") for i in range(200)])
    monkeypatch.setattr(archives, "MAX_ENTRIES", 199)
    with pytest.raises(Problem, match=r"has 200 entries, more than 199"), unpacked(many):
        pass
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with (
        pytest.raises(Problem, match=r"unpacks to 2 bytes, but the disk of .* has 1 left"),
        unpacked(zipped(("config.json", "{}"))),
    ):
        pass


def declared(content, size):
    """The same zip file, whose directory declares another unpacked size of the first entry."""
    place = content.index(b"PK\x01\x02") + 24
    return content[:place] + struct.pack("<L", size) + content[place + 4 :]


@pytest.mark.parametrize("size", [10, 3000, 6000])
def test_a_header_that_lies_does_not_write_more(size):
    """4000 bytes that are declared as fewer or more."""
    content = zipped(("config.json", bytes(range(250)) * 16), ("other", os.urandom(1000)))
    with pytest.raises(Problem, match=r"cannot be unpacked|shorter than declared"), unpacked(declared(content, size)):
        pass


def test_damaged_wheels_are_one_line():
    for content in (b"", b"PK", zipped(("config.json", "{}"))[:-30], os.urandom(300)):
        with (
            pytest.raises(Problem, match=r"^a\.whl cannot be unpacked \(BadZipFile: [^\n]*\): fetch it again$"),
            unpacked(content),
        ):
            pass


NAMES = st.sampled_from([*HOSTILE[:-1], "config.json", "a/config.json", "a", "a/b/model.safetensors", "a/config.json/x.safetensors", "é/config.json", "x" * 300 + "/config.json"]) | st.text(
    "./\\:aC\0\n~é", max_size=12
).map(lambda text: text + "config.json")  # fmt: skip
KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, 0])
ENTRIES = st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=60) | st.just(bytes(4000))), min_size=1, max_size=4)
PACKING = st.sampled_from(
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@soak.fuzz("unpacking of wheels", short=60, many=8000)
@given(ENTRIES, PACKING, st.randoms(use_true_random=False), st.integers(0, 8))
def test_any_wheel_is_unpacked_inside_or_refused(entries, packing, rng, n_flips):
    """Generated, then damaged: half of the flips are in the directory at the end, where names and sizes are."""
    content = bytearray(
        zipped(*[(entry(name or "x", kind=kind), data) for name, kind, data in entries], packing=packing)
    )
    directory = content.find(b"PK\x01\x02")
    for _ in range(n_flips):
        content[rng.randrange(rng.choice([0, max(0, directory)]), len(content))] = rng.choice(
            [0, 1, 0x2E, 0x2F, 0xFF, rng.randrange(256)]
        )
    if rng.random() < 0.1:
        del content[rng.randrange(len(content)) :]
    try:
        with unpacked(bytes(content)) as folder:
            written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            assert written <= archives.MAX_RATIO * len(content)
    except Problem as problem:
        assert "\n" not in str(problem)
