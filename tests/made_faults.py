"""A disk that fails on order: `faulty_disk.c`, compiled here and loaded before everything else."""

import ctypes
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable

SOURCE = pathlib.Path(__file__).parent / "faulty_disk.c"
KINDS = {"eio": 1, "enospc": 2, "short": 3, "torn": 4, "death": 5}


def compiled(directory: pathlib.Path) -> pathlib.Path | None:
    """The library, made in `directory`; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = directory / "faulty_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


class Disk:
    """The disk below `root`, as this process sees it; the library must have been preloaded."""

    def __init__(self, root: pathlib.Path):
        self._root, self._library = os.fsencode(root), ctypes.CDLL(None)
        self.met = ""
        """The operation that failed last: its name and path; empty where none did."""
        self._library.faulty_disk.argtypes = (ctypes.c_char_p, ctypes.c_long, ctypes.c_int)
        self._library.faulty_disk_seen.restype = ctypes.c_long
        self._library.faulty_disk_name.restype = ctypes.c_char_p

    def fails(self, number: int, kind: str) -> None:
        """From now on at operation `number`, counted from 1."""
        self.met = ""
        self._library.faulty_disk(self._root, number, KINDS[kind])

    def mends(self) -> None:
        """Nothing fails any more, and nothing is counted; `met` says what failed."""
        self.met = os.fsdecode(self._library.faulty_disk_name()) or self.met
        self._library.faulty_disk(b"", 0, 0)

    def counted(self, what: Callable[[], object]) -> int:
        """How many operations something takes."""
        self._library.faulty_disk(self._root, 0, 0)
        what()
        seen = int(self._library.faulty_disk_seen())
        self.mends()
        return seen
