"""Pure: bit layouts, generators, buffers and grants. A test checks the imports: no I/O, no clock, no randomness."""
