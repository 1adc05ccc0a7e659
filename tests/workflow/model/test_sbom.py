import json
import zipfile
from importlib import metadata

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.conftest import ROOT
from workflow.files import digest
from workflow.model.licences import locked
from workflow.model.sbom import write_sbom


def write_wheel(folder, name, *requires, licence="MIT"):
    facts = [
        f"Name: {name}",
        "Version: 0.1.0",
        f"License-Expression: {licence}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    path = folder / f"{name.replace('-', '_')}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        info = zipfile.ZipInfo(f"{name.replace('-', '_')}-0.1.0.dist-info/METADATA")
        wheel.writestr(info, "Metadata-Version: 2.4\n" + "\n".join(facts) + "\n")
    return path


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    tmp_path.joinpath("wheels").mkdir()
    required = [r for r in metadata.requires("spacy-rootstock") if "extra ==" not in r]
    write_wheel(tmp_path / "wheels", "en_x", "spacy<3.9.0,>=3.8.0", "spacy-rootstock>=0.1.0")
    write_wheel(tmp_path / "wheels", "spacy-rootstock", *required, "unheard-of; extra == 'gpu'", "not-locked")
    return tmp_path / "wheels"


def test_a_bill_of_materials(wheels, minilm):
    written = []
    for _ in range(2):
        write_sbom("en_x", wheels, minilm)
        written.append((wheels / "en_x.cdx.json").read_text("utf-8"))
    text = written[0]
    assert written[1] == text and "timestamp" not in text and "urn:uuid" not in text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    found = {component["name"]: component for component in document["components"]}
    facts = json.loads((minilm / "weights.json").read_text())

    pipeline = document["metadata"]["component"]
    assert (pipeline["name"], pipeline["purl"]) == ("en_x", "pkg:pypi/en-x@0.1.0")
    for component, file in ((pipeline, "en_x"), (found["spacy-rootstock"], "spacy_rootstock")):
        assert component["hashes"] == [{"alg": "SHA-256", "content": digest(wheels / f"{file}-0.1.0-py3-none-any.whl")}]
    packages = {"spacy", "thinc", "torch", "transformers", "safetensors", "srsly", "numpy", "tokenizers", "pydantic"}
    assert packages <= found.keys() and not {"not-locked", "unheard-of", "pytest", "mlflow"} & found.keys()
    for name, component in found.items():
        if component["type"] == "library" and name != "spacy-rootstock":
            assert component["version"] == locked()[name] and component["licenses"], name
    model = found[facts["source"]]
    assert model["type"] == "machine-learning-model" and model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert model["hashes"] == [{"alg": "SHA-256", "content": facts["sha256"]["model.safetensors"]}]
    assert {file["name"]: file["hashes"][0]["content"] for file in model["components"]} == facts["sha256"]
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in document["dependencies"]}
    assert {"weights", "pkg:pypi/spacy-rootstock@0.1.0", found["spacy"]["purl"]} == set(needs["pkg:pypi/en-x@0.1.0"])
    assert found["tokenizers"]["purl"] in needs[found["transformers"]["purl"]]
    assert {ref for refs in needs.values() for ref in refs} <= needs.keys() | {pipeline["purl"]}


def test_weights_without_a_known_licence(wheels, tmp_path):
    facts = {
        "source": "path:mine",
        "revision": "local files",
        "licence": 'ask <me>, "please"',
        "sha256": {"model.safetensors": "0" * 64},
    }
    (tmp_path / "weights.json").write_text(json.dumps(facts))
    write_sbom("en_x", wheels, tmp_path)
    text = (wheels / "en_x.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    [model] = [c for c in json.loads(text)["components"] if c["type"] == "machine-learning-model"]
    assert model["licenses"] == [{"license": {"name": facts["licence"]}}]


@pytest.mark.parametrize(("folder", "name"), [("package", "en_sample_sentiment"), ("vectors", "en_minilm")])
def test_each_package_stage_writes_one(finished, folder, name):
    wheels = finished.folder / "data" / folder
    text = (wheels / f"{name}.cdx.json").read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert all(digest(wheel) in text for wheel in wheels.glob("*.whl"))
    assert (
        json.loads((finished.folder / "data/weights/weights.json").read_text())["sha256"]["model.safetensors"] in text
    )
