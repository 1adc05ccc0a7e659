"""Benchmarks of Rootstock against other libraries, measured on the same machine in interleaved rounds."""
