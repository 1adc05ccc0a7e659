"""The workflow: `stages/` is the DAG, a module for each stage; the other folders are what the stages share."""
