"""Seconds until a run is open, with all that is checked before compute: `python startup.py`.

Of runs of 2 and of 2,000 iterations of 64 prompts, by turns, in processes of their own; from `main` to the first phase.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "tiny_lm.py"
OPEN = """
import sys, time
from jaxalign.config.load import load, override, validate
from jaxalign.config.resolved import dump
from jaxalign.session import Session
from jaxalign.storage.record import Recorder
from jaxalign.storage.rundir import open_run
began = time.perf_counter()
options = ("--iterations", sys.argv[2], "--swap_every", "1", "--feedback.prompts_per_iteration", "64")
options = (*options, "--placement.mesh.fsdp", "1")
experiment = override(load(sys.argv[1]), options)
validate(experiment)
with open_run(sys.argv[3], dump(experiment)) as run:
    Session(experiment, run, Recorder(run.path))
    print(time.perf_counter() - began)
"""

for turn in range(3):
    for iterations in ("2", "2000"):
        with tempfile.TemporaryDirectory() as directory:
            command = [sys.executable, "-c", OPEN, str(CONFIG), iterations, directory]
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            seconds = float(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            print(f"turn {turn}: {iterations} iterations of 64 prompts: {seconds:.2f} s", flush=True)
