"""Sizes rounded up: to what all devices share evenly, to the blocks of a kernel, to lengths that compile once."""


def rounded(size: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple
