"""The licences of the packages in requirements.lock, as SPDX expressions (https://spdx.org/licenses).

`python -m workflow.model.licences` lists them, and fails if one of them is not accepted.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LOCK = Path("requirements.lock")

# Anybody may use packages under these for any purpose. Those that ask something of who passes a package on, such as the
# GPL, are of tools: no wheel contains a package.
ACCEPTED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CC-PDDC", "CNRI-Python", "EPL-1.0", "EPL-2.0", "GPL-2.0-only WITH GCC-exception-2.0", "ISC", "LGPL-2.1-only",
    "LicenseRef-BSD", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Unlicense", "ZPL-2.1", "Zlib",
}  # fmt: skip

# How older metadata, in its field or classifiers, says it; `BSD` does not say which.
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "LicenseRef-BSD",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "LicenseRef-BSD",
    "GPLv2 with linking exception": "GPL-2.0-only WITH GCC-exception-2.0",
    "GPLv2 | EPLv1": "GPL-2.0-only OR EPL-1.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "New BSD": "BSD-3-Clause",
    "Python Software Foundation License": "PSF-2.0",
}

# From the licence files of packages whose metadata has none, or several without saying how they combine.
BY_NAME = {
    "cleanlab": "Apache-2.0",
    "conda-inject": "MIT",
    "docutils": "CC-PDDC AND 0BSD AND BSD-2-Clause AND BSD-3-Clause",  # its Emacs mode (GPL) is not in the package
    "huey": "MIT",
    "packaging": "Apache-2.0 OR BSD-2-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "skops": "MIT",
    "snakemake-interface-common": "MIT",
    "snakemake-interface-logger-plugins": "MIT",
    "snakemake-interface-report-plugins": "MIT",
    "snakemake-interface-scheduler-plugins": "MIT",
    "snakemake-interface-storage-plugins": "MIT",
}


def locked() -> dict[str, str]:
    """The version of each package in requirements.lock."""
    return dict(line.split("==") for line in LOCK.read_text("utf-8").splitlines() if "==" in line)


def licence_of(name: str, facts: metadata.PackageMetadata) -> str | None:
    """The licence of an installed package; None if its metadata does not say, or not in known words."""
    from cyclonedx.spdx import is_expression

    if name in BY_NAME:
        return BY_NAME[name]
    classifiers = [text.split(" :: ")[-1] for text in facts.get_all("Classifier", []) if text.startswith("License")]
    fields = [text for field in ("License-Expression", "License") for text in facts.get_all(field, [])]
    said = [*fields, *(classifiers if len(classifiers) == 1 else [])]
    known = (SPELLINGS.get(text) or (text if is_expression(text) else None) for text in said)
    return next(filter(None, known), None)


def is_accepted(expression: str) -> bool:
    """Whether a licence may be chosen (OR), and all those that apply (AND), are accepted."""
    spdx = _spdx()

    def accepted(node: Any) -> bool:
        if isinstance(node, spdx.OR):
            return any(map(accepted, node.args))
        if isinstance(node, spdx.AND):
            return all(map(accepted, node.args))
        return str(node) in ACCEPTED

    return accepted(spdx.parse(expression))


@cache
def _spdx() -> Any:
    from license_expression import get_spdx_licensing  # type: ignore[import-untyped]

    return get_spdx_licensing()  # reads all of SPDX's names


def main() -> None:
    refused = []
    for name, version in locked().items():
        licence = licence_of(name, metadata.metadata(name))
        print(f"{name:42} {version:14} {licence or 'unknown'}")
        if licence is None or not is_accepted(licence):
            refused.append(name)
    sys.exit(f"not accepted in workflow/model/licences.py: {', '.join(refused)}" if refused else None)


if __name__ == "__main__":
    main()
