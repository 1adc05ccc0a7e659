"""How a stage runs, whatever it computes."""
