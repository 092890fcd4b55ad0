"""Compiles for machines that are not here, and reads memory, cost and fit off the compiled programs."""
