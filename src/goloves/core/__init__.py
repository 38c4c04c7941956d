"""Pure: bit layouts, generators, buffers and grants. No I/O, no clock, no randomness of its own (a test checks the imports)."""
