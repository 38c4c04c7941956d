"""Mutants: each breaks one rule of uniqueness on purpose. The simulation has to notice every one of them."""

from simulation.mutants import halts, ranges, windows
from simulation.mutants.listed import MUTANTS

__all__ = ["MUTANTS", "halts", "ranges", "windows"]
