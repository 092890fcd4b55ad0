"""Starting: what answers at once imports nothing that is slow."""

import subprocess
import sys

HELP = """
import sys
import jaxalign.hosts.stop
from jaxalign.__main__ import main, verbs
for verb in sorted({*verbs()} - {"bench"}):
    try:
        main([verb, "--help"])
    except SystemExit:
        pass
main(["--version"])
main(["init"])
print(*sorted({"jax", "numpy", "optax", "orbax", "flax"} & sys.modules.keys()), file=sys.stderr)
"""


def test_help_and_lists_need_no_jax():
    """Of any verb but bench, whose benchmarks say themselves what they are; versions and starters neither."""
    done = subprocess.run([sys.executable, "-c", HELP], check=True, capture_output=True, text=True)
    assert done.stdout.count("usage: jaxalign ") > 10
    assert done.stderr.strip() == ""
