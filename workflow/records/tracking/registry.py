"""The registered model in MLflow: a version for each result, and an alias on the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model import scores
from .client import Params

ALIAS = "best"


def register(client: Any, run_id: str, params: Params, model: Path) -> None:
    """Add the model as a version of the registered model, and put the alias on the best version for this data."""
    import mlflow
    import spacy

    name = f"{params['language']}_{params['package']['name']}"
    if not client.search_model_versions(f"run_id = '{run_id}'"):
        with mlflow.start_run(run_id=run_id):
            mlflow.spacy.log_model(
                spacy.load(model / "pipeline"),
                name="model",
                pip_requirements=["spacy-rootstock"],
                registered_model_name=name,
            )
    data = client.get_run(run_id).data.tags["data.sha256"]
    versions = {v.version: client.get_run(v.run_id).data for v in client.search_model_versions(f"name = '{name}'")}
    dev = {
        version: {key: run.metrics[f"dev/{key}"] for key in ("accuracy", "log_loss")}
        for version, run in versions.items()
        if run.tags.get("data.sha256") == data and "dev/log_loss" in run.metrics
    }
    best = min(dev, key=lambda version: (*scores.rank(dev[version]), int(version)))
    client.set_registered_model_alias(name, ALIAS, best)
    rule = f"The alias `{ALIAS}` is on the version with the {scores.RULE}, of those from the same data as the newest."
    client.update_registered_model(name, description=rule)
