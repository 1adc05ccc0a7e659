"""What is built, scored and shipped."""
