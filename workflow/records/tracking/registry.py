"""The registered model in MLflow: a version for each result, and an alias on the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rootstock

from ...engine.errors import Problem
from ...model import scores
from .client import Params, active_run, connect, errors_as_problems, unless_gone

ALIAS = "best"
SERVED = "workflow/records/tracking/served.py"
DEV_ROWS = "dev.sha256"  # tag of a run: digest of the rows of dev that it was scored on


def register(client: Any, run_id: str, params: Params, model: Path) -> bool:
    """Add the model as a version of the registered model, unless it is one. RETURNS: whether it was added.

    The alias is put on the best version, whatever has become of versions and runs.
    """
    import mlflow
    import pandas

    select_by = params["select_by"]
    name = f"{params['language']}_{params['package']['name']}"
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    missing = not any(version.name == name and _has_files(version) for version in versions)
    if missing:
        with mlflow.start_run(run_id=run_id):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=SERVED,
                artifacts={"pipeline": str(model / "pipeline")},
                signature=_signature(),
                input_example=pandas.DataFrame({"text": ["Not bad at all."]}),
                pip_requirements=[f"spacy-rootstock=={rootstock.__version__}"],  # of the wheel that `package` builds
                registered_model_name=name,
            )
        best = f"The alias `{ALIAS}` is on the version with the {scores.RULES[select_by]}"
        client.update_registered_model(name, description=f"{best}, of those scored on the newest one's rows.")
    best = _best(client, client.search_model_versions(f"name = '{name}'"), select_by)
    client.set_registered_model_alias(name, ALIAS, best.version)
    return missing


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(Schema([ColSpec("string", "text")]))


def fetch(uri: str, folder: Path) -> Path:
    """Download a registered model, such as `models:/en_sentiment@best`. RETURNS: the folder of its pipeline."""
    with errors_as_problems():
        connect()
        import mlflow

        model = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
    found = next(Path(model).rglob("config.cfg"), None)
    if found is None:
        raise Problem(f"{uri}: no pipeline of spaCy")
    return found.parent


def _has_files(version: Any) -> bool:
    import mlflow

    return bool(unless_gone(lambda: mlflow.artifacts.list_artifacts(f"models:/{version.name}/{version.version}")))


def _best(client: Any, versions: list[Any], select_by: str) -> Any:
    """The best on dev of the versions that were scored on the same rows as the newest, and still have run and files."""
    runs = ((version, active_run(client, version.run_id)) for version in versions)
    scored = [(version, run.data) for version, run in runs if run is not None and DEV_ROWS in run.data.tags]

    def rank(entry: tuple[Any, Any]) -> tuple[float, ...]:
        version, data = entry
        dev = {key: data.metrics[f"dev/{key}"] for key in scores.RULES}
        return *scores.rank(dev, select_by), int(version.version)

    newest_first = sorted(scored, key=lambda entry: -int(entry[0].version))
    rows = next(data.tags[DEV_ROWS] for version, data in newest_first if _has_files(version))
    comparable = sorted((entry for entry in scored if entry[1].tags[DEV_ROWS] == rows), key=rank)
    return next(version for version, _ in comparable if _has_files(version))
