"""The precisions in which Rootstock is measured."""

from __future__ import annotations

import torch

from rootstock.encoder import encoder

from .report import Report


def available_precisions(report: Report) -> list[str]:
    """fp32, and auto if that is bf16 on this CPU. Otherwise auto is the same as fp32, and the report says so."""
    if encoder.has_fast_bf16(torch.device("cpu")):
        return ["fp32", "auto"]
    report.notes.append("bf16 is not faster on this CPU, so auto is the same as fp32 and was not measured")
    return ["fp32"]
