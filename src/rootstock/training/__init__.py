"""Training: optimizer steps, learning rates, loss scaling and data parallelism."""
