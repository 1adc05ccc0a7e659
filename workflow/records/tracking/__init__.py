"""MLflow: no other folder imports it.

`live` logs a fine-tuning while it runs, `results` records each finished result, `registry` its model, `view` the page
that compares results; `client` is the connection that they share.
"""
