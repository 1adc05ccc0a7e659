"""The transformer over many documents, forward and backward."""
