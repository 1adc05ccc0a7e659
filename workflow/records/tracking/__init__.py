"""MLflow: no other folder imports it.

`live` logs a fine-tuning while it runs, `results` records each finished result, `registry` registers its model, `view`
stores a page that compares results; `client` is the connection that they share.
"""
