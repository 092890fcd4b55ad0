"""Prints pins of what extras of this package need that is not installed here: `python constraints/pins.py PINS EXTRA…`.

pip resolves them under the pins in the file PINS and installs nothing: libraries of GPUs are pinned on a machine that
has none.
"""

import json
import subprocess
import sys


def needed(pins: str, extra: str) -> dict[str, str]:
    """Versions by name."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    found = subprocess.run([*command, "--report", "-", "-c", pins, f".[{extra}]"], stdout=subprocess.PIPE, check=True)
    packages = [each["metadata"] for each in json.loads(found.stdout)["install"]]
    return {each["name"]: each["version"] for each in packages if each["name"] != "jaxalign"}


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        known = {line.partition("==")[0].lower().replace("_", "-") for line in file}
    for extra in sys.argv[2:]:
        for name, version in needed(sys.argv[1], extra).items():
            if name.lower().replace("_", "-") not in known:
                print(f"{name}=={version}")
