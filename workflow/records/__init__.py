"""What a run leaves for people: costs, summary, report, MLflow."""
