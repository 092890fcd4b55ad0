"""Numbers of a command line that lie in a range: what `type=` of an argument is given.

A parser says of a text that is no such number which argument it was meant for and what is allowed, and exits with 2.
"""

import argparse
from dataclasses import dataclass

from jaxalign.config.ranges import LARGEST, range_problems


@dataclass(frozen=True)
class Whole:
    """A whole number of at least `least`."""

    least: int = 1

    def __call__(self, text: str) -> int:
        """Raises ArgumentTypeError, which parsers catch."""
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"a whole number is expected, got {text!r}") from None
        if not self.least <= number <= LARGEST:
            raise argparse.ArgumentTypeError(f"must be at least {self.least} and at most 2^53, got {text}")
        return number


@dataclass(frozen=True)
class Real:
    """A number in [least, most]."""

    least: float
    most: float

    def __call__(self, text: str) -> float:
        """Raises ArgumentTypeError, which parsers catch."""
        try:
            number = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"a number is expected, got {text!r}") from None
        if not self.least <= number <= self.most:  # nor is NaN
            raise argparse.ArgumentTypeError(f"must lie in [{self.least:g}, {self.most:g}], got {text}")
        for problem in range_problems("", number):
            raise argparse.ArgumentTypeError(problem)
        return number
