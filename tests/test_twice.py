"""Files that are kept twice: what was written last is read, whatever happens to one of the two."""

from pathlib import Path

import pytest
from etils import epath

from jaxalign.errors import CheckpointError
from jaxalign.storage import durable, rundir, twice
from jaxalign.storage.record import Recorder, read_metrics

CONTENT = b'{"seed": 0}\n'


@pytest.fixture
def file(tmp_path: Path) -> epath.Path:
    place = epath.Path(tmp_path / "config.json")
    twice.write(place, CONTENT)
    return place


@pytest.mark.parametrize("which", ["file", "copy"])
def test_a_flipped_bit_in_either_is_found_and_mended(file: epath.Path, which: str) -> None:
    """In every byte of it; also where it is cut short, or gone."""
    damaged = file if which == "file" else twice.copy_of(file)
    whole = damaged.read_bytes()
    cases = [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))]
    for case in [*cases, whole[:5], b""]:
        damaged.write_bytes(case)
        assert twice.read(file) == CONTENT
        assert damaged.read_bytes() == case
        assert twice.read(file, mend=True) == CONTENT
        assert damaged.read_bytes() == whole


def test_what_is_gone_is_told_and_comes_back(file: epath.Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.unlink()
    assert twice.there(file)
    assert twice.read(file, mend=True) == CONTENT
    assert f"{file}: gone; written anew from its copy" in capsys.readouterr().err
    assert file.read_bytes() == CONTENT
    twice.delete(file)
    assert not twice.there(file)
    with pytest.raises(FileNotFoundError):
        twice.read(file)


def test_a_file_of_an_earlier_version_has_no_copy(file: epath.Path) -> None:
    twice.copy_of(file).unlink()
    file.write_bytes(b"{}")
    assert twice.read(file, mend=True) == b"{}"
    assert not twice.copy_of(file).exists()


@pytest.mark.parametrize("written", [0, 1])
def test_a_death_between_the_two_leaves_what_was_written_last(
    file: epath.Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, write_file = [], durable.write_file

    def dying(path: epath.Path, content: bytes) -> None:
        if len(places) == written:
            raise KeyboardInterrupt
        places.append(path)
        write_file(path, content)

    monkeypatch.setattr(durable, "write_file", dying)
    with pytest.raises(KeyboardInterrupt):
        twice.write(file, b"{}")
    assert twice.read(file) == (b"{}" if written else CONTENT)


def test_copies_in_a_directory_that_was_emptied_are_of_no_run(tmp_path: Path) -> None:
    """A shell's * leaves names that begin with a dot."""
    first = {"seed": 0}
    rundir.open_run(tmp_path, first).close()
    Recorder(tmp_path).log(0, "fit", 1, {"loss": 1.0})
    for name in ("metrics.jsonl", "config.json", "lock"):
        (tmp_path / name).unlink()
    assert (tmp_path / ".metrics.jsonl.copy").exists()
    for config in (first, {"seed": 1}):
        rundir.open_run(tmp_path, config).close()
        assert read_metrics(tmp_path) == []
        assert rundir.read_run(tmp_path).config == config


def test_what_is_put_back_counts_where_both_were_damaged(tmp_path: Path) -> None:
    rundir.open_run(tmp_path, {"seed": 0}).close()
    (tmp_path / "initial").mkdir()  # something was computed
    whole = (tmp_path / "config.json").read_bytes()
    (tmp_path / "config.json").write_bytes(whole.replace(b'"seed": 0', b'"seed": 7'))
    (tmp_path / ".config.json.copy").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="damaged or edited"):
        rundir.open_run(tmp_path, {"seed": 1})
    (tmp_path / "config.json").write_bytes(whole)
    rundir.open_run(tmp_path, {"seed": 0}).close()
    assert rundir.read_run(tmp_path).config == {"seed": 0}
