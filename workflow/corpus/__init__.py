"""How documents are read, stored and streamed."""
