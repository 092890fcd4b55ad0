"""Writes soccer_nash.json: the metagame's symmetric equilibrium, solved in rational arithmetic by trying supports.

python tests/goldens/games/make_soccer_nash.py
"""

import itertools
import json
from fractions import Fraction
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    rows = [line.split() for line in (HERE / "soccer_metagame.txt").read_text().splitlines()]
    raw = [[Fraction(cell) for cell in row] for row in rows]
    size = len(raw)
    skew = [[(raw[i][j] - raw[j][i]) / 2 for j in range(size)] for i in range(size)]
    for count in range(1, size + 1, 2):
        for support in itertools.combinations(range(size), count):
            policy = kernel([[skew[i][j] for j in support] for i in support])
            if policy is None or min(policy) <= 0:
                continue
            payoffs = [sum(skew[i][j] * p for j, p in zip(support, policy, strict=True)) for i in range(size)]
            if max(payoffs) <= 0:
                full = [0.0] * size
                for index, probability in zip(support, policy, strict=True):
                    full[index] = float(probability)
                (HERE / "soccer_nash.json").write_text(
                    json.dumps({"support": support, "policy": full}, indent=1) + "\n"
                )
                return
    raise SystemExit("no equilibrium of odd support")


def kernel(matrix: list[list[Fraction]]) -> list[Fraction] | None:
    """The probability vector in the kernel of a skew matrix of odd order, None unless the kernel is a line."""
    size = len(matrix)
    rows = [[*row, Fraction(0)] for row in matrix[:-1]] + [[Fraction(1)] * size + [Fraction(1)]]
    for column in range(size):
        pivot = next((i for i in range(column, size) if rows[i][column] != 0), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [cell / rows[column][column] for cell in rows[column]]
        for other in range(size):
            if other != column:
                factor = rows[other][column]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[column], strict=True)]
    return [row[-1] for row in rows]


if __name__ == "__main__":
    main()
