"""Preference matrices from files: CSV, whitespace-separated text, or NumPy's .npy; validated cell by cell."""

import tokenize
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxalign.errors import DataError

TOLERANCE = 1e-6
"""Slack for P + Pᵀ = 1: files carry decimals. What is read is made exact by averaging with 1 - Pᵀ."""


def read_matrix(path: str | Path) -> Float[np.ndarray, "v v"]:
    """The preference matrix P(row beats column) in `path`, float64, exactly complementary.

    Raises:
        DataError: naming file and cell, for a matrix that is not square, not numeric, has entries outside [0, 1], or
            P + Pᵀ different from 1 (the diagonal from 1/2) by more than 1e-6.
    """
    path = Path(path)
    matrix = _load(path)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise DataError(
            f"{path}: a preference matrix is square with at least 2 rows, this one has shape {matrix.shape}"
        )
    _refuse(path, matrix, ~np.isfinite(matrix), "is not a finite number")
    _refuse(path, matrix, (matrix < 0.0) | (matrix > 1.0), "is no probability within [0, 1]")
    skewed = np.abs(matrix + matrix.T - 1.0) > TOLERANCE
    if skewed.any():
        row, column = np.argwhere(skewed)[0]
        mirror = f"P[{column}, {row}] = {matrix[column, row]:.8g}"
        also = "; the diagonal must be 0.5" if row == column else f", but {mirror}: they must sum to 1"
        raise DataError(f"{path}: P[{row}, {column}] = {matrix[row, column]:.8g}{also} (rows and columns from 0)")
    return 0.5 * (matrix + 1.0 - matrix.T)


def _load(path: Path) -> Float[np.ndarray, "..."]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".npy":
        try:
            loaded = np.load(path, allow_pickle=False, mmap_mode="r")  # a header may speak of more than there is
            if loaded.dtype.kind not in "biuf":
                raise TypeError(f"its numbers are {loaded.dtype}")
            return np.asarray(loaded, np.float64)
        except (ValueError, EOFError, TypeError, OSError, MemoryError, OverflowError, tokenize.TokenError) as error:
            raise DataError(f"{path}: not a NumPy array of numbers: {error}") from error
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); CSV, text or .npy is expected") from error
    rows = [(number, _fields(line)) for number, line in enumerate(lines, 1) if line.strip() and line.strip()[0] != "#"]
    if not rows:
        raise DataError(f"{path}: holds no numbers")
    return np.array([_row(path, number, fields, len(rows[0][1])) for number, fields in rows])


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split(",")] if "," in line else line.split()


def _row(path: Path, number: int, fields: list[str], width: int) -> list[float]:
    if len(fields) != width:
        raise DataError(f"{path}:{number}: {len(fields)} fields where the first row has {width}")
    for column, field in enumerate(fields):
        try:
            float(field)
        except ValueError:
            raise DataError(f"{path}:{number}: field {column + 1} is {field!r}, not a number") from None
    return [float(field) for field in fields]


def _refuse(path: Path, matrix: Float[np.ndarray, "v v"], wrong: np.ndarray, why: str) -> None:
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise DataError(f"{path}: P[{row}, {column}] = {matrix[row, column]:.8g} {why} (rows and columns from 0)")
