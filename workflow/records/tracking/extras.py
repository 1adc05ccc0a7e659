"""Results beside those of the sweep in MLflow: a run for each state of an annotated corpus, a student and the like."""

from __future__ import annotations

from filelock import FileLock

from .client import errors_as_problems, log_metrics, open_experiment

EXTRA = "rootstock.extra"  # tag: digest of the result


def record(experiment: str, name: str, sha256: str, figures: dict[str, float]) -> tuple[str, bool]:
    """RETURNS: the id of the run, and whether it is new.

    name: of the run. Raises Problem if MLflow cannot be reached or refuses a call.
    """
    with errors_as_problems(), FileLock("mlflow.db.ledger.lock"):  # one ledger of this clone at a time
        client, number = open_experiment(experiment)
        found = client.search_runs([number], f"tags.`{EXTRA}` = '{sha256}'")
        complete = [run for run in found if run.info.status == "FINISHED"]
        for run in found:
            if run not in complete:  # an earlier call was interrupted
                client.delete_run(run.info.run_id)
        if complete:
            return complete[0].info.run_id, False
        run = client.create_run(number, run_name=name, tags={EXTRA: sha256})
        log_metrics(client, run.info.run_id, figures)
        client.set_terminated(run.info.run_id)
        return run.info.run_id, True
