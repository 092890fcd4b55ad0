"""`jaxalign init`: what is listed, what is copied, and that nothing is lost to it."""

from pathlib import Path

import pytest

from jaxalign.__main__ import main
from jaxalign.config import starters
from jaxalign.config.load import load

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(file.relative_to(CONFIGS).as_posix().removesuffix(".py") for file in CONFIGS.rglob("*.py"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What stderr says: one line, with the exit code of a config that cannot be."""
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_every_config_has_a_line(capsys):
    assert main(["init"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    assert sorted(told) == NAMES
    assert told["quickstart_inpo"] == "INPO: the quickstart with the anchor fixed at the base policy"
    assert told["dpo_llama3_70b_v5p_256"].startswith("Iterative DPO on Llama-3-70B-Instruct on 256 chips of TPU v5p (")
    # those of no folder are found first, and folders stay together
    folders = [line.split()[0].rpartition("/")[0] for line in lines]
    assert folders == sorted(folders)


@pytest.mark.parametrize(
    ("paragraph", "sentence"),
    [
        ("One. Two.", "One"),
        ("As Liu et al. 2024 have\nit, in 0.5 s. More", "As Liu et al. 2024 have it, in 0.5 s"),
        ("A fork of tldr.py: no stop", "A fork of tldr.py: no stop"),
        ("", ""),
    ],
)
def test_the_first_sentence(paragraph, sentence):
    assert starters.first_sentence(paragraph) == sentence


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_in_an_empty_folder_is_whole(name, tmp_path):
    """The bytes of the config and of what it imports, and nothing that it imports is missing."""
    config, *others = starters.copy(name, tmp_path / "mine")
    source = CONFIGS / f"{name}.py"
    assert config == tmp_path / "mine" / source.name
    assert contents(tmp_path / "mine") == {
        file.name: (source.parent / file.name).read_bytes() for file in (config, *others)
    }
    load(config)


def test_what_is_imported_is_copied_and_nothing_else(tmp_path):
    for name, source in {
        "a": "import json\nfrom b import x\nfrom d.e import y\n",
        "b": "def late():\n    import a, c\n",
        "c": "from . import unused\nimport numpy\n",
        "json": "",
        "unused": "",
        "d": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    assert [file.name for file in starters.with_neighbours(tmp_path / "a.py")] == ["a.py", "b.py", "c.py"]


def test_the_command_to_go_on_with_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "quickstart_inpo", "my own"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "my own/quickstart_inpo.py",
        "my own/quickstart.py",
        "jaxalign train 'my own/quickstart_inpo.py' --workdir runs/quickstart_inpo",
    ]
    assert main(["init", "tiny_lm"]) == 0
    assert (tmp_path / "tiny_lm.py").read_bytes() == (CONFIGS / "tiny_lm.py").read_bytes()


@pytest.mark.parametrize("mine", ["quickstart.py", "quickstart_inpo.py"])
def test_nothing_is_overwritten(tmp_path, capsys, mine):
    (tmp_path / mine).write_text("mine")
    assert f"{tmp_path / mine}: already there" in refused(capsys, "quickstart_inpo", str(tmp_path))
    assert contents(tmp_path) == {mine: b"mine"}


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path, capsys):
    (tmp_path / "tiny_lm.py").symlink_to(tmp_path / "elsewhere")
    assert "already there" in refused(capsys, "tiny_lm", str(tmp_path))
    assert not (tmp_path / "elsewhere").exists()


def test_two_starters_share_what_both_import(tmp_path):
    starters.copy("quickstart_inpo", tmp_path)
    before = (tmp_path / "quickstart.py").stat().st_mtime_ns
    assert starters.copy("quickstart_lora", tmp_path) == [tmp_path / "quickstart_lora.py", tmp_path / "quickstart.py"]
    assert (tmp_path / "quickstart.py").stat().st_mtime_ns == before
    assert starters.copy("quickstart_lora", tmp_path)  # once more is no error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three_action", "nearest: games/three_action\n"),
        ("tiny_lm.py", "nearest: tiny_lm\n"),
        ("quickstart_impo", "nearest: quickstart_inpo, "),
        ("../pyproject", "lists them"),
        ("", "no starter is called ''"),
        ("x" * 5000, "lists them"),
        ("caf\udce9", "lists them"),
        ("a\0b", "lists them"),
    ],
)
def test_a_name_that_is_none_is_refused(capsys, tmp_path, name, words):
    assert words in refused(capsys, name, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_is_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "DIR is empty" in refused(capsys, "tiny_lm", "")
    assert main(["init", "tiny_lm", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_package_without_configs_says_so(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(starters, "PACKAGE", tmp_path / "site" / "jaxalign")
    assert "installed without its configs" in refused(capsys)
