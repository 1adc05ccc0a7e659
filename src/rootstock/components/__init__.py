"""spaCy pipeline components, and the layers they consist of."""
