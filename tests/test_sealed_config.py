"""config.json has a seal: an edited digit is found where there is no copy of it, as in a bucket, and the command that
made the run puts it right."""

import json
import re
from pathlib import Path

import pytest

from jaxalign.errors import CheckpointError, ConfigError
from jaxalign.storage import rundir

CONFIG = {"seed": 0, "loss": {"eta": 0.125}, "placement": {"remat": "none"}}


@pytest.fixture
def root(tmp_path) -> Path:
    rundir.open_run(tmp_path, CONFIG).close()
    (tmp_path / ".config.json.copy").unlink()
    (tmp_path / "initial").mkdir()  # something was computed
    return tmp_path


def edit(root: Path, old: str, new: str) -> None:
    text = (root / "config.json").read_text()
    assert old in text
    (root / "config.json").write_text(text.replace(old, new))


def test_the_seal_is_no_setting(root):
    assert rundir.read_run(root).config == CONFIG
    assert "seal" in json.loads((root / "config.json").read_text())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"eta": 0.125', '"eta": 0.625'),
        ('"seed": 0', '"seed": 1'),
        ('"seal": "', '"seal": "0'),
        ('"loss": {', '"loss": '),
    ],
)
def test_what_was_edited_is_refused_by_who_reads_and_mended_by_who_made_it(root, capsys, old, new):
    whole = (root / "config.json").read_bytes()
    edit(root, old, new)
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        rundir.read_run(root)
    rundir.open_run(root, CONFIG).close()
    assert "written again as it was" in capsys.readouterr().err
    assert (root / "config.json").read_bytes() == whole
    assert rundir.read_run(root).config == CONFIG


def test_another_command_mends_nothing(root):
    edit(root, '"eta": 0.125', '"eta": 0.625')
    edited = (root / "config.json").read_bytes()
    for other in ({**CONFIG, "loss": {"eta": 0.625}}, {**CONFIG, "seed": 1}):
        with pytest.raises(CheckpointError, match="damaged or edited"):
            rundir.open_run(root, other)
        assert (root / "config.json").read_bytes() == edited


@pytest.mark.parametrize("at", range(0, 120, 7))
def test_every_flipped_byte_is_found_or_harmless(root, at):
    content = bytearray((root / "config.json").read_bytes())
    content[at % len(content)] ^= 4
    (root / "config.json").write_bytes(bytes(content))
    try:
        assert rundir.read_run(root).config == CONFIG  # a blank that is another blank
    except CheckpointError:
        rundir.open_run(root, CONFIG).close()
        assert rundir.read_run(root).config == CONFIG


def test_a_config_of_another_version_has_none_and_is_read(root):
    (root / "config.json").write_text(json.dumps(CONFIG))
    assert rundir.read_run(root).config == CONFIG
    rundir.open_run(root, CONFIG).close()
    with pytest.raises(ConfigError, match="seed: 0 in the run, 1 now"):
        rundir.open_run(root, {**CONFIG, "seed": 1})


def test_a_placement_of_another_launch_needs_no_other_seal(root):
    before = (root / "config.json").read_bytes()
    rundir.open_run(root, {**CONFIG, "placement": {"remat": "full"}}).close()
    assert (root / "config.json").read_bytes() == before
    assert re.search(rb'"seal": "[0-9a-f]{64}"', before)
