"""The stages of the DAG, one module each, and the few things that they share."""
