"""An export streams: its memory does not grow with the model."""

import os
import shutil
import subprocess
import sys

import pytest
from made_exports import begun
from made_models import mesh, shardings

from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import trained
from jaxalign.models.random_llama import RandomLlama

PROGRAM = """
import sys
from jaxalign.__main__ import main

def now(field):
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

assert main(["export", sys.argv[1], sys.argv[2], *sys.argv[5:]]) == 0
before = now("VmRSS")
assert main(["export", sys.argv[3], sys.argv[4], *sys.argv[5:]]) == 0
print(now("VmHWM") - before)
"""
"""Prints bytes above what the process had after exporting a small run, its programs and threads included."""
SHAPES = {
    "small": RandomLlama(layers=1, width=1024, mlp=2048, heads=8, kv_heads=2, head_dim=64, tied=False),
    "large": RandomLlama(layers=3, width=2048, mlp=8192, heads=8, kv_heads=2, head_dim=64, tied=False),
}
TENSOR, SHARD = 4 * 2048 * 8192, 4 * 3 * 2048 * 8192 // 8
"""Bytes of the largest tensor in the exported file, and of the largest piece of a parameter that a device had."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("base_dtype", [None, "float32", "nf4"])
def test_an_export_takes_the_memory_of_three_tensors(tmp_path, dtype, base_dtype):
    """Of 640 MB of parameters in stacks of 200 MB, spread over eight devices. Needs 2 GB of disk."""
    for name, shape in SHAPES.items():
        source = shape if base_dtype is None else LoRA(shape, rank=4, base_dtype=base_dtype)
        model = source.open()
        placed = shardings(model, mesh("1x8x1"))
        with begun(source, tmp_path / name) as run:
            run.policy(0).save(trained(model.load(lambda path, at=placed: leaf_at(at, path))), {})
    paths = [str(tmp_path / name) for name in ("small", "small_out", "large", "large_out")]
    command = [sys.executable, "-c", PROGRAM, *paths, "--dtype", dtype]
    environment = os.environ | {"XLA_FLAGS": ""}  # programs as they ship, on one device
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    peak = int(done.stdout.split()[-1])
    print(f"{peak / 2**20:.0f} MiB above the baseline")
    assert peak < 3 * TENSOR + SHARD
    shutil.rmtree(tmp_path)


def leaf_at(tree, path):
    for step in path:
        tree = tree[step]
    return tree
