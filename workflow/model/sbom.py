"""What is in a wheel and what it needs, for scanners: a software bill of materials in CycloneDX's JSON.

Its bytes depend on the wheels, the weights and requirements.lock alone: it has no time and no random number.
"""

from __future__ import annotations

import json
import zipfile
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..files import digest, write_json
from .licences import licence_of, locked

if TYPE_CHECKING:
    from cyclonedx.model.component import Component


def write_sbom(name: str, wheels: Path, weights: Path | None) -> None:
    """Write NAME.cdx.json beside the wheels: the pipeline, the library, their locked dependencies and the weights.

    weights: the folder of pretrained weights, if it has any.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    name_of = canonicalize_name
    paths: dict[str, Path] = {name_of(path.name.split("-")[0]): path for path in wheels.glob("*.whl")}
    built = {package: _in_wheel(path) for package, path in paths.items()}
    versions: dict[str, str] = {name_of(package): version for package, version in locked().items()}
    versions |= {package: dist.version for package, dist in built.items()}
    required_by = _needs(name_of(name), set(versions), built)

    components = {}
    for package in required_by:
        facts = (built.get(package) or metadata.distribution(package)).metadata
        licence = licence_of(facts["Name"], facts)
        components[package] = _package(facts["Name"], versions[package], licence, paths.get(package))
    pipeline, models = components[name_of(name)], [_model(weights)] if weights else []
    bom = Bom(components={*models, *components.values()} - {pipeline})
    bom.metadata.component = pipeline
    for package, required in required_by.items():
        bom.register_dependency(components[package], [components[other] for other in required])
    if models:
        bom.register_dependency(pipeline, models)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["serialNumber"], document["metadata"]["timestamp"]
    write_json(wheels / f"{name}.cdx.json", document)


def _in_wheel(path: Path) -> metadata.Distribution:
    name, version = path.name.split("-")[:2]
    return metadata.PathDistribution(zipfile.Path(path, f"{name}-{version}.dist-info/"))


def needs(package: str) -> list[str]:
    """An installed package and all that it requires, directly or not, as far as it is locked."""
    return list(_needs(canonicalize_name(package), {canonicalize_name(name) for name in locked()}, {}))


def _needs(name: str, known: set[str], built: dict[str, metadata.Distribution]) -> dict[str, list[str]]:
    """For a package, and for each that it needs directly or not, the known packages that it needs directly."""
    needs: dict[str, set[str]] = defaultdict(set)
    todo, done = {(name, "")}, set()
    while todo:
        package, extra = found = todo.pop()
        done.add(found)
        requires = (built.get(package) or metadata.distribution(package)).requires or []
        for required in map(Requirement, requires):
            other = canonicalize_name(required.name)
            if other in known and (required.marker is None or required.marker.evaluate({"extra": extra})):
                needs[package].add(other)
                todo |= {(other, its) for its in ("", *required.extras)} - done
        needs[package]  # also without dependencies
    return {package: sorted(needs[package]) for package in sorted(needs)}


def _package(name: str, version: str, licence: str | None, wheel: Path | None) -> Component:
    """A package; its digest is known if it was built here."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    purl = PackageURL("pypi", name=canonicalize_name(name), version=version)
    return Component(
        name=name,
        version=version,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest(wheel))] if wheel else [],
    )


def _model(weights: Path) -> Component:
    """The pretrained weights, with the digest of each file."""
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    facts = json.loads((weights / "weights.json").read_text("utf-8"))
    hashes = {file: [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] for file, sha256 in facts["sha256"].items()}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=facts["source"],
        version=facts["revision"],
        bom_ref="weights",
        licenses=[LicenseFactory().make_from_string(facts["licence"])],
        hashes=hashes["model.safetensors"],
        components=[
            Component(type=ComponentType.FILE, name=file, bom_ref=f"weights/{file}", hashes=hashes[file])
            for file in hashes
        ],
    )
