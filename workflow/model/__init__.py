"""How models are built, scored and packaged."""
