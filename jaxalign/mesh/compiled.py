"""Compiled programs kept between launches: a second launch reads what the first one has compiled.

JAX's persistent compilation cache, in a folder of the user's cache: `$XDG_CACHE_HOME/jaxalign/compiled`, or
`~/.cache/jaxalign/compiled`, with a folder in it for each kind of processor, whose programs no other can run. Entries
are named by program, options, versions and devices, so processes and experiments share a folder, and nothing that is
read was compiled from anything else. Nothing here imports JAX: where nobody has yet, it reads the environment.
"""

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

FOLDER, ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
"""JAX's own names; what they say goes unless a launch says otherwise."""

SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
"""Programs that compile faster are not kept. JAX's default is 1 s, and a launch has hundreds of small ones."""

OFF = "off"

ENTRY = "-cache"
"""What names of JAX's entries end with."""

MOST_BYTES = 2 << 30
"""Kept in a folder of ours when a launch begins: what was not read for longest goes."""


def keep_compiled(where: str | None) -> None:
    """Lets this process and its children read and keep compiled programs in folder `where`; None: where JAX's
    environment says, or else in the user's cache; "off": nowhere.

    Says so on stderr where a folder cannot be written, and compiles then.
    """
    if where == OFF:
        _tell_jax({ENABLED: "false"})
        return
    if where is None and os.environ.get(ENABLED, "").lower() in ("false", "0"):
        return
    seconds = os.environ.get(SECONDS) or "0"
    if where is None and os.environ.get(FOLDER):
        _tell_jax({SECONDS: seconds})
        return
    try:
        folder = (Path(where) if where else users_folder(os.environ)).expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # whoever can write there can run code here
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} cannot be written")
        trim(folder, MOST_BYTES)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        print(f"jaxalign: compiled programs are not kept: {error}", file=sys.stderr, flush=True)
        return
    _tell_jax({FOLDER: str(folder), SECONDS: seconds})


def users_folder(environment: Mapping[str, str]) -> Path:
    """The default one, of this kind of processor."""
    return users_cache(environment) / "compiled" / f"{platform.machine()}-{processor()}"


def users_cache(environment: Mapping[str, str]) -> Path:
    """What is ours of the user's cache. Raises RuntimeError where there is no home."""
    return Path(environment.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "jaxalign"


def processor() -> str:
    """Eight digits for what this processor's instructions are; the same on hosts that run each other's programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def trim(folder: Path, most: int) -> None:
    """Removes the entries that were used longest ago, until the others are `most` bytes; whatever else lies there
    stays. A reader that has one open keeps it, one that comes later compiles."""
    found = list[tuple[float, int, Path]]()
    for path in folder.glob(f"*{ENTRY}"):
        with contextlib.suppress(FileNotFoundError):  # another launch trims as well
            told = path.stat()
            found.append((max(told.st_atime, told.st_mtime), told.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > most:
            path.unlink(missing_ok=True)


def _tell_jax(settings: Mapping[str, str]) -> None:
    os.environ.update(settings)
    if "jax" in sys.modules:
        import jax

        values = {ENABLED: lambda text: text == "true", SECONDS: float}
        for name, text in settings.items():
            jax.config.update(name.lower(), values.get(name, str)(text))
