"""The transformer's forward and backward pass over many documents."""
