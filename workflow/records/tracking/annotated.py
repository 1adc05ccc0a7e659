"""Annotated corpora in MLflow: a run for each state of a corpus, with the shares of its labels and what it cost."""

from __future__ import annotations

from typing import Any

from filelock import FileLock

from .client import errors_as_problems, log_metrics, names, open_experiment

CORPUS = "rootstock.corpus"  # tag: digest of what the model predicts for a corpus


def record(experiment: str, corpus: str, summary: dict[str, Any]) -> tuple[str, bool]:
    """RETURNS: the id of the run, and whether it is new.

    summary: as `corpora.summaries` gives it. Raises Problem if MLflow cannot be reached or refuses a call.
    """
    with errors_as_problems(), FileLock("mlflow.db.ledger.lock"):  # one ledger of this clone at a time
        client, number = open_experiment(experiment)
        found = client.search_runs([number], f"tags.`{CORPUS}` = '{summary['sha256']}'")
        complete = [run for run in found if run.info.status == "FINISHED"]
        for run in found:
            if run not in complete:  # an earlier call was interrupted
                client.delete_run(run.info.run_id)
        if complete:
            return complete[0].info.run_id, False
        figures = {key: summary[key] for key in ("documents", "words", "skipped", "slices")}
        figures |= {f"energy/{key}": summary[key] for key in ("wh_per_1000", "wh_per_1000_low", "wh_per_1000_high")}
        figures["energy/seconds"] = summary["cost"]["seconds"]
        name_of = names(summary["labels"])
        figures |= {f"share/{name_of[label]}": n / summary["documents"] for label, n in summary["labels"].items()}
        run = client.create_run(number, run_name=f"annotate {corpus}", tags={CORPUS: summary["sha256"]})
        log_metrics(client, run.info.run_id, figures)
        client.set_terminated(run.info.run_id)
        return run.info.run_id, True
