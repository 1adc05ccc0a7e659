"""Pretrained weights, and what differs between model families."""
