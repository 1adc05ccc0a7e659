"""Wordpieces: tokenization, alignment with spaCy's tokens, windows and packs."""
