"""Judges with weights of their own on the devices of two real processes: they say what they say on those of one."""

import shutil

import pytest
from made_judges import judge_directory
from made_processes import MESH, assert_same_trajectory, files, finish, stopped
from made_runs import CONFIGS

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(900)]

CONFIG = """
import dataclasses

from jaxalign.config.load import load
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.mixture import Member, Mixture
from jaxalign.oracles.panel import Panel, Weighted

tiny = load({tiny!r})
oracle = Mixture(
    (
        Member(Panel((Weighted(RewardModel({reward!r}, too_long="cut")),))),
        Member(PreferenceModel({general!r}, too_long="cut")),
    )
)
experiment = dataclasses.replace(tiny, feedback=dataclasses.replace(tiny.feedback, oracle=oracle))
"""
OPTIONS = (
    *("--iterations", "1", "--swap_every", "none", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "8", "--placement.rollout_rows", "12"),
    *("--placement.judge_block_size", "3", "--placement.judge_batch_size", "8"),
    *("--evaluation.rollout.max_tokens", "8", "--evaluation.prompts.limit", "4", "--fit.batch_size", "8"),
    *MESH,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("judges")
    judges = {name: str(judge_directory(home / name, outputs)) for name, outputs in (("reward", 1), ("general", 4))}
    file = home / "judged.py"
    file.write_text(CONFIG.format(tiny=str(CONFIGS / "tiny_lm.py"), **judges))
    return file


@pytest.fixture(scope="module")
def both(config, tmp_path_factory, cache):
    """A run by one process and one by two."""
    home = tmp_path_factory.mktemp("both")
    finish(config, home / "one", cache, 1, *OPTIONS)
    finish(config, home / "two", cache, 2, *OPTIONS)
    return home / "one", home / "two"


def test_judges_on_two_processes_say_what_they_say_on_one(both):
    one, two = both
    for phase in ("preferences", "groups"):
        assert files(one, f"0000/{phase}/*") == files(two, f"0000/{phase}/*")
    assert_same_trajectory(one, two)


@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (2, 2)], ids="{0[0]} then {0[1]}".format)
def test_judging_that_was_stopped_goes_on_with_any_number_of_processes(both, config, cache, counts, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(both[1], workdir)
    for phase in ("preferences", "groups", "certificates", "references", "policy", "heldout", "evals"):
        shutil.rmtree(workdir / "0000" / phase)
    first, second = counts
    launch = stopped(config, workdir, cache, first, *OPTIONS, at="0000/preferences.parts/00001*")
    assert "stopped after 6 prompts of preferences" in launch.said(0)
    assert not (workdir / "0000" / "preferences").exists()
    finish(config, workdir, cache, second, *OPTIONS)
    for phase in ("preferences", "groups"):
        assert files(both[1], f"0000/{phase}/*") == files(workdir, f"0000/{phase}/*")
