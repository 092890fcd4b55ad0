"""What pyproject.toml cannot say: the wheel carries configs/ as jaxalign/starters, for `jaxalign init`.

Everything else is in pyproject.toml. Where configs/ is absent, as on the hosts of a pod, nothing is added.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = sorted(Path("configs").rglob("*.py"))
"""Relative to the folder of this file, in which build backends run it."""


class BuildWithStarters(build_py):
    """Copies the configs beside the modules; an editable install finds them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for config in CONFIGS:
            starter = Path(self.build_lib, "jaxalign", "starters", config.relative_to("configs"))
            self.mkpath(str(starter.parent))
            self.copy_file(str(config), str(starter))

    def get_source_files(self) -> list[str]:
        """What a source distribution holds."""
        return [*super().get_source_files(), *map(str, CONFIGS)]


setup(cmdclass={"build_py": BuildWithStarters})
