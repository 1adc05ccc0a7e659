"""What people read about a run: costs, summary, report, MLflow."""
