"""From text to wordpieces, and back to tokens."""
