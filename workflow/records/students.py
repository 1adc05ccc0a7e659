"""Students compared with their teacher: scores, speed, size, and after how many documents they have saved energy."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from . import costs

PACKAGED, FOLDER = "package_student@", Path("data/student_package")


def found(receipts: costs.Receipts) -> dict[str, dict[str, Any]]:
    """By student: `teacher` and `student` with their figures, `agreement`, `test_p`, `training`, `pays_after`.

    `training` is the energy of its stage and of `annotate`, in Wh. After `pays_after` documents the student has saved
    as much; None if it needs no less energy than the teacher, or has a transformer, too.
    """
    annotated = [receipt for stage, receipt in receipts.items() if stage.startswith("annotate@")]
    students = {}
    for stage in (stage for stage in receipts if stage.startswith(PACKAGED)):
        student = stage.removeprefix(PACKAGED)
        trained, packaged = receipts[f"distill@{student}"], receipts[stage]
        facts = json.loads((FOLDER / student / "comparison.json").read_text("utf-8"))
        for who, figures in packaged["speed"].items():
            facts[who] |= figures
        training = 1000 * costs.total([trained, *annotated])["kwh"]
        saved = (facts["teacher"]["wh_per_1000"] - facts["student"]["wh_per_1000"]) / 1000
        outs = json.dumps([trained["outs"], packaged["outs"]], sort_keys=True)
        facts |= {"training": training, "pays_after": round(training / saved) if facts["small"] and saved > 0 else None}
        students[student] = facts | {"sha256": hashlib.sha256(outs.encode()).hexdigest()}
    return students


def figures(facts: dict[str, Any]) -> dict[str, float]:
    """The figures of a student for MLflow."""
    flat = {f"{who}/{key}": facts[who][key] for who in ("teacher", "student") for key in FIGURES}
    return flat | {"agreement": facts["agreement"], "energy/training_wh": facts["training"]}


FIGURES = ("accuracy", "macro_f1", "log_loss", "words_per_second", "wh_per_1000", "mb")


def lines(students: dict[str, dict[str, Any]]) -> list[str]:
    """Each student for the terminal."""
    said = []
    for name, facts in students.items():
        student, teacher = facts["student"], facts["teacher"]
        faster = student["words_per_second"] / teacher["words_per_second"]
        said.append(
            f"student {name}: test accuracy {student['accuracy']:.3f}, the teacher's is {teacher['accuracy']:.3f}; "
            f"they agree on {facts['agreement']:.0%}"
        )
        said.append(
            f"{'':8}{faster:.3g} times as fast on one core, {student['mb']:.1f} MB instead of {teacher['mb']:.0f}, "
            f"{student['wh_per_1000']:.4f} Wh per 1,000 documents instead of {teacher['wh_per_1000']:.4f}"
        )
        if facts["pays_after"]:
            said.append(f"{'':8}the energy of its training is saved after {facts['pays_after']:,} documents")
    return said
