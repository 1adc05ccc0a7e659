"""In which precisions Rootstock takes part."""

from __future__ import annotations

import torch

from rootstock.encoder import encoder

from .report import Report


def precisions(report: Report) -> list[str]:
    """fp32, and auto where this CPU has a faster one: elsewhere the report says that it has not."""
    if encoder.has_fast_bf16(torch.device("cpu")):
        return ["fp32", "auto"]
    report.notes.append("no AMX and no AVX512-BF16 here: auto would be fp32, and is left out")
    return ["fp32"]
