"""Pretrained weights, and the differences between model families."""
