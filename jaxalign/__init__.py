"""jaxalign: aligns language models with general preferences, in JAX."""

__version__ = "0.1.0"
