"""Faster replacements for PyTorch's attention, dropout and linear layers on CPUs."""
