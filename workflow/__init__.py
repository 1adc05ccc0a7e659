"""The workflow: `stages/` has a module for each stage of the DAG, the other folders hold what the stages share."""
