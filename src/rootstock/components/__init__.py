"""What a spaCy user adds to a pipeline."""
