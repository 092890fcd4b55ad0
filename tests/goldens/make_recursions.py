"""Makes the table of BENCHMARKS.md on pairing rules: the duality gaps that COMAL's exact recursion comes to.

PYTHONPATH=.:tests python tests/goldens/make_recursions.py
"""

from made_recursions import TABLE, cell, row


def main() -> None:
    for name in TABLE:
        print(f"| {name} | {' | '.join(cell(*ends) for ends in row(name))} |", flush=True)


if __name__ == "__main__":
    main()
