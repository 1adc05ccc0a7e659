"""The settings at one point of the sweep."""

from __future__ import annotations

from ..engine.params import Params


def at_point(params: Params, point: str) -> Params:
    """The params with the settings of `finetune`, and the `seed`, that the point replaces."""
    changes = dict(params.sweep[point])
    seed = changes.pop("seed", params.seed)
    return params.model_copy(update={"seed": seed, "finetune": params.finetune.model_copy(update=changes)})
