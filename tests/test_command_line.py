"""The boundary of errors: whatever config, option, disk or terminal do, a verb ends in one line and a code."""

import io
import pathlib
import subprocess
import sys

import pytest

from jaxalign.__main__ import main, speak
from jaxalign.commands import sample
from jaxalign.commands.eval import _numbers
from jaxalign.errors import ConfigError

TINY = str(pathlib.Path(__file__).parents[1] / "configs" / "tiny_lm.py")
CONFIGS = {
    "a syntax error": "x = (",
    "a module that is not there": "import nothing_there",
    "an error": "1/0",
    "an exit": "raise SystemExit(3)",
    "no experiment": "experiment = {}",
}


def told(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and what stderr says, which is no traceback."""
    code = main(list(arguments))
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return code, error


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("option", ["--help", "--print-config"])
def test_a_config_that_cannot_be_loaded_is_one_line_whatever_is_asked_of_it(tmp_path, capsys, name, option):
    (tmp_path / "bad.py").write_text(CONFIGS[name])
    code, error = told(capsys, "train", str(tmp_path / "bad.py"), option)
    assert (code, error.count("\n")) == (2, 1)
    assert "bad.py" in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", TINY, "--bogus", "1", "--help"), 2, "bogus: unknown option"),
        (("train", "nothing.py", "--help"), 2, "no such config file"),
        (("train", "--loss.eta", "0.1", TINY), 2, "'0.1' stands where CONFIG belongs"),
        (("train", "a" * 300, "--help"), 1, "File name too long"),
        (("import", "", "out"), 4, "an empty path names no model"),
        (("import", "x", ""), 2, "DST is empty"),
        (("sample", "nowhere", "--prompt", "x", "--seed", str(10**20)), 2, "--seed must lie in"),
        (("sample", "nowhere", "--prompt", "x", "--seed", "-1"), 2, "--seed must lie in"),
        (("games", "--steps", str(10**20)), 2, "end at 2^53 at most"),
        (("games", "--game", ""), 3, "no such file"),
        (("data", "pairs.csv", "--split", "test"), 2, "has no splits"),
    ],
)
def test_a_command_that_cannot_be_is_one_line(capsys, arguments, code, words):
    found, error = told(capsys, *arguments)
    assert found == code
    assert words in error


def test_answers_that_leave_no_room_are_refused_before_a_run_computes(tmp_path, capsys):
    code, error = told(
        capsys, "train", TINY, "--workdir", str(tmp_path / "run"), "--feedback.rollout.max_tokens", "600"
    )
    assert code == 2
    assert "max_tokens is 600, which leaves a prompt no room in the model's context of 512 tokens" in error


@pytest.mark.parametrize("arguments", [("games", "--inner"), ("report", "--steps")])
@pytest.mark.parametrize("number", ["-5", "0", str(10**20)])
def test_a_number_out_of_range_ends_the_parsing(capsys, arguments, number):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, number])
    assert "must be at least 1 and at most 2^53" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--k", "--against"])
@pytest.mark.parametrize("number", ["4097", str(10**20), "-1", "2,", "one"])
def test_answers_to_a_prompt_are_a_number_that_can_be_drawn(option, number):
    with pytest.raises(ConfigError, match=option):
        _numbers(option, number)
    assert _numbers(option, "1, 4096") == (1, 4096)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *(("seed", value, "must lie in [0, 2^32)") for value in ("-1", str(2**32), str(2**63), str(10**30))),
        ("iterations", "0", "iterations must be at least 1"),
        ("iterations", "100001", "at most 100000"),
        ("iterations", str(10**20), "must lie within 2^53"),
        ("fit.batch_size", str(10**20), "must lie within 2^53"),
        ("model.seed", "-1", "must lie in [0, 2^32)"),
        ("optimizer.eps", "0", "eps must be positive"),
        ("optimizer.eps", "-1", "eps must be positive"),
        ("optimizer.eps", "nan", "expected a finite float"),
        ("optimizer.learning_rate.peak", "1e-310", "is 0 in fp32"),
        ("optimizer.learning_rate.peak", "1e39", "is infinite in fp32"),
        ("feedback.rollout.sampler.temperature", "1e-40", "is 0 in fp32"),
        ("feedback.rollout.sampler.temperature", "-1", "temperature must be positive"),
        ("feedback.oracle.annotators.0.temperature", "1e-40", "is 0 in fp32"),
        ("placement.topology", "banana", "unknown topology 'banana'"),
        ("evaluation.evals.0.against", "('iterate-99',)", "iterate-99"),
        ("evaluation.evals.0.against", "('iterate-01',)", "iterate-01"),
    ],
)
def test_a_setting_out_of_range_is_refused_before_anything_is_opened(capsys, name, value, words):
    code, error = told(capsys, "train", TINY, "--print-config", f"--{name}={value}")
    assert code == 2
    assert words in error


def test_types_and_ranges_are_told_in_one_round(capsys):
    """But for what would be said of a setting's former value where the one that was asked for cannot be read."""
    wrong = (
        "--iterations=many",
        "--optimizer.eps=-1",
        "--optimizer.learning_rate.peak=1e39",
        "--nosuch=1",
        "--seed=-1",
    )
    code, error = told(capsys, "train", TINY, "--print-config", *wrong)
    assert code == 2
    assert "5 problems" in error
    for words in (
        "iterations: expected an int",
        "unknown option",
        "eps must be positive",
        "is infinite in fp32",
        "seed",
    ):
        assert words in error
    code, error = told(capsys, "train", TINY, "--print-config", "--optimizer.eps=small", "--seed=-1")
    assert "2 problems" in error
    assert "eps must be positive" not in error


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "0.00001", "1.e-5", "10e-6"])
def test_numbers_are_read_however_they_are_written(capsys, text):
    assert main(["train", TINY, "--print-config", f"--optimizer.learning_rate.peak={text}"]) == 0
    assert '"peak": 1e-05' in capsys.readouterr().out


def test_a_character_that_a_terminal_lacks_gets_its_name(monkeypatch):
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, encoding="ascii", write_through=True))
    speak()
    print("né \u2713")
    assert held.getvalue() == b"n\\xe9 \\u2713\n"


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (OSError(28, "No space left on device", "/full/file"), 1, "/full/file: No space left on device"),
        (BrokenPipeError(), 1, ""),
    ],
)
def test_what_a_disk_or_a_reader_does_is_no_traceback(capfd, monkeypatch, raised, code, words):
    def run(args):
        raise raised

    monkeypatch.setattr(sample, "run", run)
    assert main(["sample", "nowhere"]) == code
    error = capfd.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_reader_that_closes_early_is_no_traceback():
    """More than a pipe holds, to a reader of one line."""
    command = f"{sys.executable} -m jaxalign losses --help | head -c 1; {sys.executable} -m jaxalign losses | head -1"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ended.stdout
    assert ended.stderr == ""


def test_a_prompt_that_is_no_text_is_blamed_itself(capsys, monkeypatch):
    monkeypatch.setattr(sample, "_spec", lambda args: None)
    monkeypatch.setattr("jaxalign.reopen.reopen", lambda *_: pytest.fail("the run was opened first"))
    code, error = told(capsys, "sample", "nowhere", "--prompt", "caf\udce9")
    assert (code, "--prompt" in error) == (2, True)
