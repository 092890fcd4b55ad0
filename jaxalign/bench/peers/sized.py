"""Models of random weights in the form of Hugging Face, which every side of a benchmark reads: only sizes matter."""

import argparse
import sys

from jaxalign.exchange.export import convert
from jaxalign.models.model import split
from jaxalign.models.random_llama import RandomLlama, byte_chat, drawn

SIZES = {
    "tiny": (RandomLlama(layers=2, width=64, mlp=128, context=512), 512),
    "1b": (RandomLlama(layers=16, width=2048, mlp=8192, heads=32, kv_heads=8, head_dim=64, context=8192), 128_256),
}
"""Shape and vocabulary; 1b has those of Llama-3.2-1B. The tokenizer speaks bytes: nobody reads what is said."""


def write(size: str, directory: str) -> None:
    """Writes the model of this size to a new directory, in fp32; no device is asked. ModelError where it is not new."""
    source, vocabulary = SIZES[size]
    config = source.config(vocabulary)
    convert(split(config, byte_chat(), f"random llama {size}", drawn(config, 0)), directory, "float32")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("directory")
    asked = parser.parse_args()
    write(asked.size, asked.directory)
    print("{}", file=sys.stdout)
