"""`jaxalign --version`: what is installed, and on request what JAX finds."""

import importlib.metadata
import platform

import jax
import pytest

from jaxalign import __version__
from jaxalign.__main__ import main
from jaxalign.config.installed import installed


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main([*arguments]) == 0
    return capsys.readouterr().out.splitlines()


def test_versions_are_those_of_the_metadata(capsys):
    lines = printed(capsys, "--version")
    assert lines[:2] == [f"jaxalign {__version__}", f"Python {platform.python_version()}"]
    packages = dict(line.split() for line in lines[2:])
    assert packages.keys() >= {"jax", "jaxlib", "flax", "optax", "orbax-checkpoint"}
    assert packages == {name: importlib.metadata.version(name) for name in packages}
    assert packages["jax"] == jax.__version__
    assert printed(capsys, "version") == lines


def test_what_is_not_installed_has_no_version():
    assert installed(("no-such-package", "jax")) == {"jax": jax.__version__}


def test_devices_are_counted_by_kind(capsys):
    without = printed(capsys, "--version")
    assert printed(capsys, "--version", "--devices") == [*without, f"device cpu cpu × {jax.local_device_count()}"]


def test_devices_that_do_not_start_are_one_line(capsys, monkeypatch):
    def none() -> None:
        raise RuntimeError("Unable to initialize backend 'tpu': it is held\nby another process")

    monkeypatch.setattr(jax, "local_devices", none)
    assert main(["--version", "--devices"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("jaxalign ")  # versions are not lost to it
    assert told.err == "jaxalign version: JAX starts no device here: Unable to initialize backend 'tpu': it is held\n"


def test_another_option_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--version", "--bogus"])
    assert "unrecognized arguments: --bogus" in capsys.readouterr().err
