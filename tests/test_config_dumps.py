"""Dumps of experiments without secrets, and the differences between two."""

import json
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_experiment import HOME, OWN, Descent, Everything, Hinge, Nothing, Squared, WinRate
from made_values import VALUES, few

import jaxalign
from jaxalign.config.load import help_text, load, override, own_classes
from jaxalign.config.resolved import difference, dump, dumps, plain, restore
from jaxalign.config.settings import show
from jaxalign.errors import ConfigError
from jaxalign.rollouts.slots import Slots


def test_dump_is_json_of_types_and_settings() -> None:
    dumped = dump(Everything())
    assert dumped["type"] == f"{HOME}:Everything"
    assert dumped["loss"] == {"type": f"{HOME}:Squared", "eta": 0.1, "label": None}
    assert dumped["evals"][1] == {"type": f"{HOME}:Nothing"}
    assert dumped["optim"]["clip"] == "inf"
    assert (dumped["mode"], dumped["folder"], dumped["modes"]) == ("FAST", "runs/x", ["SLOW"])
    assert json.loads(dumps(Everything())) == dumped
    assert dumps(Everything()).endswith("}\n")


@few
@given(st.data())
def test_dumps_tell_values_apart_and_nothing_else(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(set(VALUES) - {"limits", "free"})))
    one, other = (override(Everything(), [f"--{path}={show(data.draw(VALUES[path]))}"]) for _ in range(2))
    assert (dumps(one) == dumps(other)) or one != other
    assert bool(difference(dump(one), dump(other))) == (one != other)


def test_mappings_and_sets_dump_in_one_order() -> None:
    one = Everything(limits={"a": 1.0, "b": 2.0}, anything=frozenset(string.ascii_letters))
    other = Everything(limits={"b": 2.0, "a": 1.0}, anything=frozenset(reversed(string.ascii_letters)))
    assert dumps(one) == dumps(other)


def test_dumps_are_the_same_in_any_process(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    imports = "from jaxalign.config.load import load; from jaxalign.config.resolved import dumps"
    program = f"{imports}; print(dumps(load({str(file)!r})), end='')"
    runs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            cwd=Path(jaxalign.__file__).parents[1],
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout == dumps(load(file)).encode()


SECRETS = ["hf_abcdefghijklmnop1234", "sk-abcdefghijklmnop1234", "Bearer abcdef123456", "https://me:pass@host/x"]


@pytest.mark.parametrize("secret", SECRETS)
def test_values_that_look_like_secrets_are_redacted(secret: str) -> None:
    experiment = Everything(name=f"x {secret}", words=(secret,), free={"k": secret}, anything=Path(secret))
    shown = dumps(experiment) + help_text(experiment, "nowhere.py")
    assert "abcdef" not in shown
    assert "pass@" not in shown
    assert "[redacted]" in shown


@pytest.mark.parametrize("name", ["token", "hf_token", "api_key", "apiKey", "password", "client_secret", "API-KEY"])
def test_values_under_secret_names_are_redacted(name: str) -> None:
    experiment = Everything(free={name: "hush", "inner": {name: ["hush"]}, f"{name}s": {"k": "hush"}})
    assert "hush" not in dumps(experiment)
    assert "hush" not in help_text(experiment, "nowhere.py")


@pytest.mark.parametrize("name", ["max_tokens", "eos_token", "tokenizer", "api_key_env", "token_file", "secretary"])
def test_names_that_only_resemble_secrets_are_kept(name: str) -> None:
    value: Any = 128 if name == "max_tokens" else "value"
    assert dump(Everything(free={name: value}))["free"] == {name: value}


def differences(now: Everything, ignore: tuple[str, ...] = ()) -> list[str]:
    run = json.loads(dumps(Everything()))
    return difference(run, dump(now), ignore)


def test_the_same_config_has_no_differences() -> None:
    assert differences(Everything()) == []
    assert differences(Everything(rate=0.5, loss=Squared(0.1))) == []


def test_differences_name_path_and_both_values() -> None:
    now = Everything(loss=Squared(eta=0.2), steps=4, evals=(WinRate(7), Nothing(), WinRate(5)), words=("c",))
    assert differences(now) == [
        "loss.eta: 0.1 in the run, 0.2 now",
        "evals.0.resamples: 100 in the run, 7 now",
        "steps: 3 in the run, 4 now",
        'words: ["a,b", ""] in the run, ["c"] now',
    ]
    assert differences(now, ignore=("loss", "evals.0.resamples", "steps")) == [
        'words: ["a,b", ""] in the run, ["c"] now'
    ]


def test_another_type_is_one_difference() -> None:
    assert differences(Everything(loss=Hinge())) == [f"loss: {HOME}:Squared in the run, {HOME}:Hinge now"]
    assert differences(Everything(absent=Descent())) == [f"absent: null in the run, {HOME}:Descent now"]
    assert differences(Everything(evals=(WinRate(), Nothing()))) == [f"evals.2: {HOME}:WinRate in the run, absent now"]


def test_new_and_dropped_settings_are_differences() -> None:
    assert difference({"type": "a:B", "x": 1}, {"type": "a:B", "y": True}) == [
        "y: absent in the run, true now",
        "x: 1 in the run, absent now",
    ]
    assert difference({"x": 1}, {"x": True}) == ["x: 1 in the run, true now"]
    assert difference({"x": 1}, {"x": 1.0}) == []
    assert difference({"type": "a:B"}, {"type": "a:C"}) == ["experiment: a:B in the run, a:C now"]


def test_dumps_are_restored_with_classes_of_the_config_file_that_one_names(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    experiment = load(file)
    own = own_classes(experiment)
    assert sorted(own) == ["own:Part", "own:Whole"]
    assert restore(dump(experiment), own=own) == experiment
    with pytest.raises(ConfigError, match=r"own:Whole is defined in a config file.*--config FILE"):
        restore(dump(experiment))
    with pytest.raises(ConfigError, match=r"experiment\.part: own:Part is defined in a config file"):
        restore(dump(experiment), own={"own:Whole": own["own:Whole"]})


def test_a_setting_that_a_version_did_not_have_is_the_same_at_its_default() -> None:
    now = plain("", Slots())
    old = {name: value for name, value in now.items() if name != "kv_cache"}
    assert difference({"engine": old}, {"engine": now}) == []
    assert difference({"engine": old}, {"engine": plain("", Slots(kv_cache="int8"))}) == [
        'engine.kv_cache: absent in the run, "int8" now'
    ]
    assert difference({"engine": now}, {"engine": old}) == ['engine.kv_cache: "exact" in the run, absent now']
