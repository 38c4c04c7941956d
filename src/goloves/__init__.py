"""Goloves: unique 64-bit ids over HTTP and gRPC, and as a library; never the same id twice."""

__version__ = "0.1.0"
