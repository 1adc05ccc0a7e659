from email.message import Message

import pytest

from tests.conftest import ROOT
from workflow.model import licences


def test_every_locked_package_has_an_accepted_licence(monkeypatch, capsys):
    """A new package in requirements.lock with another licence, or with none that its metadata tells, fails here."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit:
        licences.main()
    assert exit.value.code is None
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed.keys() == licences.locked().keys() and len(listed) > 200
    assert listed["spacy"].split() == [licences.locked()["spacy"], "MIT"]


def test_a_package_with_another_licence_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "requirements.lock").write_text("# comment\nspacy==3.8.18\nPyYAML==6.0.3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(licences, "licence_of", lambda name, facts: {"spacy": "MIT"}.get(name))
    with pytest.raises(SystemExit, match=r"not accepted in workflow/model/licences\.py: PyYAML"):
        licences.main()
    assert capsys.readouterr().out.splitlines()[1].split() == ["PyYAML", "6.0.3", "unknown"]


def test_the_table_names_only_packages_that_are_locked(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert licences.BY_NAME.keys() <= licences.locked().keys()


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("CC-BY-NC-4.0", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("MIT AND (Apache-2.0 OR GPL-3.0-only)", True),
        ("GPL-2.0-only", False),
        ("GPL-2.0-only WITH GCC-exception-2.0", True),
        ("LicenseRef-BSD", True),
        ("LicenseRef-proprietary", False),
    ],
)
def test_accepted(expression, accepted):
    assert licences.is_accepted(expression) == accepted


BSD, APACHE = ("License :: OSI Approved :: BSD License", "License :: OSI Approved :: Apache Software License")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([("License-Expression", "MIT OR Apache-2.0"), ("License", "see LICENSE")], "MIT OR Apache-2.0"),
        ([("License", "Apache 2.0")], "Apache-2.0"),
        ([("License", "Copyright (c) 2001, all rights reserved"), ("Classifier", BSD)], "LicenseRef-BSD"),
        ([("Classifier", BSD), ("Classifier", APACHE)], None),  # both, or a choice?
        ([("Classifier", "Programming Language :: Python")], None),
        ([("License", "Proprietary, for research only")], None),
    ],
)
def test_what_metadata_says(facts, expected):
    message = Message()
    for key, value in facts:
        message.add_header(key, value)
    assert licences.licence_of("some-package", message) == expected
