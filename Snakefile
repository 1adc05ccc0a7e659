# Generates its rules from dvc.yaml, which alone defines the DAG.
# Run `snakemake --profile workflow/profiles/default` on this machine, `workflow/profiles/slurm` on a cluster.
import sys

sys.path.insert(0, workflow.basedir)
from workflow.engine import dag, snake

if workflow.is_main_process:  # jobs read this file, too
    from workflow import partition
    from workflow.engine.params import check

    OTHER = snake.lock()
    if not OTHER:
        partition.main()
    check()
else:
    OTHER = None
STAGES = dag.load()
OUTS = [out for stage in STAGES.values() for out in stage.outs]
if workflow.is_main_process and not OTHER:
    snake.mark_up_to_date(STAGES)


rule all:
    default_target: True
    input:
        OUTS,


for stage in STAGES.values():

    rule:
        name:
            stage.name.replace("@", "_")
        input:
            [path for path in dag.inputs(stage, STAGES) if path in OUTS],
            stamp=snake.stamp(stage),
        output:
            [out if out.endswith(".json") else directory(out) for out in stage.outs],
        log:
            f".snakemake/log/{stage.name}.log",
        conda: # used with `--sdm conda`; otherwise jobs run in Snakemake's environment
            "workflow/environment.yaml"
        params:
            name=stage.name,
            cmd=stage.cmd if isinstance(stage.cmd, str) else " && ".join(stage.cmd),
        threads: stage.meta["resources"]["cpus"]
        resources:
            **{name: value for name, value in stage.meta["resources"].items() if name != "cpus"},
        shell:
            "export DVC_STAGE={params.name:q}; {params.cmd} > {log:q} 2>&1"


onstart: # not of a dry run, which may look at a DAG that runs
    if OTHER:
        sys.exit(f"error: {OTHER}")


onsuccess:
    shell("python -m workflow.records.ledger")
