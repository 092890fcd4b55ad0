"""Tests run on the CPU with eight fake devices, strict promotion, and annotations checked at run time."""

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["JAX_PLATFORMS"] = "cpu"
# Unoptimised code halves the time of a compile, and matrix products are library calls that stay fast. The exact games
# compute for minutes in compiled loops, and the core relations are to hold of what ships: `make test` runs both with a
# level of their own.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
# Tests compile the same programs over and over, each in a run of its own: half of all their time. What one has compiled
# others find, in the workers and in the processes that tests start too, and the first process takes it away at the end.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxalign-compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from jaxalign.models.model import Model
    from jaxalign.types import Params

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Eight devices share the threads of two cores: programs that wait for one another's collectives could all be started
# and none be finished, and XLA aborts after 40 seconds of that. One at a time cannot.
jax.config.update("jax_cpu_enable_async_dispatch", False)

install_import_hook("jaxalign", "beartype.beartype")  # installs itself; never uninstalled

from jaxalign.mesh.once import forget  # noqa: E402  the hook comes first


@pytest.fixture(autouse=True)
def _programs_of_what_is_patched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Programs that are made once a process would outlive what a test patched, or precede it."""
    patched = "monkeypatch" in request.fixturenames
    if patched:
        forget()
    yield
    if patched:
        forget()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="module")
def model() -> "Model":
    """The tiny model of `made_models`, for modules without one of their own."""
    from made_models import tiny

    return tiny()


@pytest.fixture(scope="module")
def params(model: "Model") -> "Params":
    """The parameters of `model`."""
    return model.load()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mount.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)
