"""A page of MLflow's UI that compares all results."""

from __future__ import annotations

import base64
import json
import os
import sys
import zlib
from typing import Any

from .client import VERDICT, errors_as_problems, open_experiment, reason

COLUMNS = ["dev/accuracy", "test/accuracy", "test/macro_f1", "energy/wh", "energy/wh_reused", "energy/seconds"]
CURVES = ["train/loss", "train/dev_accuracy"]
VIEW = "results"
TAG = f"mlflow.sharedViewState.{VIEW}"


def share(client: Any, experiment: str) -> None:
    """Store a view in MLflow's UI (`viewStateShareKey=results`): results only, best first, accuracy against energy.

    MLflow's "Share" button stores such a view as a tag of the experiment, in an undocumented format. A version that
    expects another format shows its default table.
    """
    scatter = {"xaxis": {"key": "energy/wh", "type": "METRIC"}, "yaxis": {"key": "test/accuracy", "type": "METRIC"}}
    lines: list[dict[str, Any]] = [
        {"type": "LINE", "metricKey": key, "selectedMetricKeys": [key], "xAxisKey": "step"} for key in CURVES
    ]
    plain = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear"}
    shared = {"deleted": False, "isGenerated": False, "metricSectionId": "first", "runsCountToCompare": 20}
    charts = [{"type": "SCATTER", **scatter}, *({**line, **plain} for line in lines)]
    view = {
        "searchFilter": "tags.`rootstock.result` LIKE '%'",
        "orderByKey": "metrics.`dev/accuracy`",
        "orderByAsc": False,
        "selectedColumns": [*(f"metrics.`{key}`" for key in COLUMNS), f"tags.`{VERDICT}`"],
        "compareRunCharts": [{"uuid": f"chart{i}", **chart, **shared} for i, chart in enumerate(charts)],
        "compareRunSections": [{"uuid": "first", "name": "Quality and energy", "display": True, "isReordered": False}],
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
    try:
        client.set_experiment_tag(experiment, TAG, f"deflate;{packed}")
    except Exception as error:  # runs can be compared without the view
        print(f"MLflow: the view '{VIEW}' was not stored ({reason(error)})", file=sys.stderr)


def page(experiment: str) -> str:
    """URL for comparing results, on the server or where `make ui` starts one: of the view, if it is stored."""
    with errors_as_problems():
        client, number = open_experiment(experiment)
        stored = TAG in client.get_experiment(number).tags
    uri = os.environ["MLFLOW_TRACKING_URI"]
    base = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    runs = f"{base}/#/experiments/{number}/runs"
    return f"{runs}?viewStateShareKey={VIEW}&compareRunsMode=CHART" if stored else runs
