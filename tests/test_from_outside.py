"""A component of each kind from outside the package: one file each beside a config, no edit of anything, and a run."""

import ast
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from made_runs import run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.exchange.export import export
from jaxalign.models import families as modules
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.family import families
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_model import RandomModel
from jaxalign.storage.record import read_metrics

CONFIGS = Path(__file__).parents[1] / "configs"

OWN = {
    "own_loss": '''
"""The hinge loss of a pair, in nats."""
from dataclasses import dataclass
from typing import ClassVar

import jax

@dataclass(frozen=True)
class Hinge:
    width: float = 1.0
    """margin from which a pair costs nothing, nats"""
    needs: ClassVar[tuple[str, ...]] = ("last", "anchor")

    def __call__(self, logps):
        ratios = logps.sums - (logps.anchor + logps.last) / 2
        margin = ratios[:, 0] - ratios[:, 1]
        return logps.prefer * jax.nn.relu(self.width - margin) + (1 - logps.prefer) * jax.nn.relu(self.width + margin)
''',
    "own_reference": '''
"""The policy that sampled as stored columns, the anchor live."""
from dataclasses import dataclass

@dataclass(frozen=True)
class HalfLive:
    def stored(self, needs):
        return tuple(role for role in needs if role == "last")

    def live(self, needs):
        return tuple(role for role in needs if role == "anchor")
''',
    "own_annotator": '''
"""Vowels a character."""
from dataclasses import dataclass

import numpy as np

@dataclass(frozen=True)
class Vowels:
    name: str = "vowels"

    def __call__(self, prompt, texts):
        return np.array([sum(letter in "aeiou" for letter in text) / max(len(text), 1) for text in texts])
''',
    "own_oracle": '''
"""Answers of larger token ids, and a panel's opinion, each half as sure."""
from dataclasses import dataclass

import numpy as np

from jaxalign.oracles.panel import Panel
from jaxalign.types import Preferences

@dataclass(frozen=True)
class Hesitant:
    panel: Panel

    def __call__(self, rollouts, key):
        found = self.panel(rollouts, key)
        total = rollouts.tokens.sum(-1)
        larger = np.sign(total[:, :, None] - total[:, None, :]) / 4 + 0.5
        each = np.stack([larger, found.prefer / 2 + 0.25], axis=1).astype(np.float32)
        return Preferences(("larger", "panel"), (0.5, 0.5), each.mean(1), each, scores=None)
''',
    "own_pairing": '''
"""Responses that stand side by side."""
from dataclasses import dataclass

import numpy as np

from jaxalign.pairs import Label, SoftLabel, labelled

@dataclass(frozen=True)
class Neighbours:
    label: Label = SoftLabel()

    def __call__(self, rollouts, preferences, key):
        count, samples = rollouts.lengths.shape
        first = np.tile(np.arange(0, samples - 1, 2), count)
        prompt = np.repeat(np.arange(count), samples // 2)
        pairs = np.stack([first, first + 1], axis=-1)
        return labelled(rollouts, preferences, prompt, pairs, np.ones(len(prompt)), self.label, key)
''',
    "own_label": '''
"""The oracle's probability, but never certain."""
from dataclasses import dataclass

import numpy as np

@dataclass(frozen=True)
class Doubtful:
    most: float = 0.9

    def __call__(self, prefer, key):
        return prefer >= 0.5, np.minimum(np.maximum(prefer, 1 - prefer), self.most)
''',
    "own_sampler": '''
"""Min-p: tokens of at least a share of the likeliest token's probability."""
from dataclasses import dataclass

import jax
import jax.numpy as jnp

@dataclass(frozen=True)
class MinP:
    share: float = 0.05

    def __call__(self, logits, keys):
        least = logits.max(-1, keepdims=True) + jnp.log(self.share)
        return jax.vmap(jax.random.categorical)(keys, jnp.where(logits >= least, logits, -jnp.inf))
''',
    "own_combiner": '''
"""Every objective's gradient at one length."""
from dataclasses import dataclass

import jax.numpy as jnp

@dataclass(frozen=True)
class Equalised:
    objectives: int = 2

    def __call__(self, gram):
        return 1 / jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 1e-12))
''',
    "own_schedule": '''
"""One rate, halved at the middle of the fit."""
from dataclasses import dataclass

import optax

@dataclass(frozen=True)
class Halved:
    rate: float = 1e-3

    def schedule(self, steps):
        return optax.piecewise_constant_schedule(self.rate, {steps // 2: 0.5})
''',
    "own_optimizer": '''
"""Descent along the signs of gradients with momentum (Lion)."""
from dataclasses import dataclass

import optax

from jaxalign.types import Schedule

@dataclass(frozen=True)
class Lion:
    learning_rate: Schedule

    def build(self, steps):
        schedule = self.learning_rate.schedule(steps)
        return optax.chain(optax.scale_by_lion(), optax.scale_by_learning_rate(schedule)), schedule
''',
    "own_eval": '''
"""How much of the answers is upper case."""
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Shouting:
    needs: ClassVar[tuple[str, ...]] = ("answers",)

    def __call__(self, context):
        text = "".join(text for texts in context.current.texts for text in texts)
        return {"own/upper_case": sum(map(str.isupper, text)) / max(len(text), 1)}
''',
    "own_prompts": '''
"""Sums to work out."""
from dataclasses import dataclass

from jaxalign.data.prompts import PromptSet
from jaxalign.types import Prompt

@dataclass(frozen=True)
class Sums:
    count: int = 8

    def open(self, cache):
        def prompt(index, number):
            return Prompt(f"sum-{index}", ({"role": "user", "content": f"What is {number} + {number}?"},))

        return PromptSet(range(self.count), prompt, None, "sums")
''',
}
"""File → what stands in it. A new kind of component is a file here and a field of the config below."""

CONFIG = '''
"""tiny_lm with a component of one's own wherever there can be one."""
import dataclasses

from own_annotator import Vowels
from own_combiner import Equalised
from own_eval import Shouting
from own_label import Doubtful
from own_loss import Hinge
from own_optimizer import Lion
from own_oracle import Hesitant
from own_pairing import Neighbours
from own_prompts import Sums
from own_reference import HalfLive
from own_sampler import MinP
from own_schedule import Halved
from tiny_lm import experiment as base

from jaxalign.oracles.annotators import Brevity
from jaxalign.oracles.panel import Panel, Weighted

experiment = dataclasses.replace(
    base,
    feedback=dataclasses.replace(
        base.feedback,
        prompts=Sums(),
        rollout=dataclasses.replace(base.feedback.rollout, sampler=MinP()),
        oracle=Hesitant(Panel((Weighted(Vowels(), temperature=0.1), Weighted(Brevity())))),
        pairing=Neighbours(label=Doubtful()),
    ),
    loss=Hinge(),
    reference=HalfLive(),
    combiner=Equalised(),
    optimizer=Lion(Halved()),
    evaluation=dataclasses.replace(base.evaluation, evals=(*base.evaluation.evals, Shouting())),
    iterations=1,
    swap_every=None,
)
'''

SMALL = (
    *("--feedback.prompts_per_iteration", "8", "--feedback.rollout.samples", "4", "--feedback.rollout.max_tokens", "8"),
    *("--evaluation.prompts.limit", "4", "--evaluation.rollout.max_tokens", "8", "--placement.mesh.fsdp", "1"),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    for name, source in OWN.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "tiny_lm.py").write_bytes((CONFIGS / "tiny_lm.py").read_bytes())
    (folder / "mine.py").write_text(CONFIG)
    return folder / "mine.py"


@pytest.fixture(scope="module")
def run(config: Path) -> Path:
    """A run of one iteration, by the command line."""
    assert main(["train", str(config), "--workdir", str(config.parent / "run"), *SMALL]) == 0
    return config.parent / "run"


def test_every_component_is_in_the_run(run: Path) -> None:
    resolved = (run / "config.json").read_text()
    for name, source in OWN.items():
        (component,) = [node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
        assert f'"{name}:{component}"' in resolved


def test_every_component_left_its_mark(run: Path) -> None:
    lines = read_metrics(run)
    evals = [line for line in lines if line["phase"] == "evals"]
    assert len(evals) == 2
    assert all(0 <= line["own/upper_case"] <= 1 for line in evals)
    assert all("win_rate/vs_base/larger" in line and "win_rate/vs_base/panel" in line for line in evals)
    (pairs,) = [line for line in lines if line["phase"] == "align"]
    assert 0 < pairs["pairs/groups"] <= 16  # two of each prompt's four responses, but for answers that are alike
    assert pairs["pairs/mean_prefer"] <= 0.75  # a hesitant oracle
    fits = [line for line in lines if line["phase"] == "fit"]
    rates = [line["learning_rate"] for line in fits]
    assert rates == [pytest.approx(1e-3 if step < len(fits) // 2 else 5e-4) for step in range(len(fits))]
    for line in fits:
        for index in (0, 1):
            product = line[f"coefficients/objective_{index}"] * line[f"grad_norm/objective_{index}"]
            assert product == pytest.approx(1, rel=1e-4)


def test_the_same_command_finds_the_run_finished(run: Path, config: Path, capsys: pytest.CaptureFixture) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", str(config), "--workdir", str(run), *SMALL]) == 0
    assert (run / "metrics.jsonl").read_bytes() == before
    capsys.readouterr()


def test_settings_of_ones_own_are_options(config: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", str(config), "--print-config", "--loss.width", "2.5"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == {"type": "own_loss:Hinge", "width": 2.5}
    assert main(["train", str(config), "--help"]) == 0
    assert "margin from which a pair costs nothing, nats" in capsys.readouterr().out


def test_readers_take_the_classes_from_the_config_file_that_is_named(
    run: Path, config: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["eval", str(run), "--json"]) == 2
    assert (
        "is defined in a config file, which the run directory does not hold; say which one" in capsys.readouterr().err
    )
    assert main(["eval", str(run), "--json", "--config", str(config)]) == 0
    evals = json.loads(capsys.readouterr().out)["evals"]
    assert all(0 <= metrics["own/upper_case"] <= 1 for metrics in evals.values())
    # Of what the policy is and says, nothing is one's own here.
    assert main(["sample", str(run), "--prompt", "Hello", "--max-tokens", "4"]) == 0
    assert main(["export", str(run), str(config.parent / "exported")]) == 0
    capsys.readouterr()


FAMILY = '''
"""Bidding: a decoder with normalised heads, which config.json says of it."""
import dataclasses

from jaxalign.models import hf_shape, tensor_names

@dataclasses.dataclass(frozen=True)
class Bidding:
    model_type = "bidding"

    def from_hf(self, fields):
        fields.fixed("hidden_act", "silu")
        plain = hf_shape.read_decoder(fields, self)
        return dataclasses.replace(plain, head_norms=fields.read("head_norms", bool))

    def to_hf(self, config):
        written = hf_shape.write_decoder(config, self.model_type, "BiddingForCausalLM")
        return {**written, "hidden_act": "silu", "head_norms": config.head_norms}

    def tensors(self, config):
        return (
            *tensor_names.vocabulary(config),
            *tensor_names.pre_norms(config),
            *tensor_names.attention(),
            *tensor_names.head_norms(config),
            *tensor_names.gated_mlp(),
        )

FAMILY = Bidding()
'''


def test_a_family_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put among the others, it writes and reads directories, trains and samples."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "bidding.py").write_text(FAMILY)
    monkeypatch.setattr(modules, "__path__", [*modules.__path__, str(tmp_path / "modules")])
    families.cache_clear()
    try:
        family = next(found for found in families() if found.model_type == "bidding")
        shape = DecoderConfig(family, 2, 32, 64, 4, 2, 8, vocab=259, head_norms=True, context=512)
        made = RandomModel(shape).open()
        params = made.load()
        export(made, params, tmp_path / "model")
        again = Pretrained(str(tmp_path / "model")).open()
        assert again.config == made.config
        jax.tree.map(np.testing.assert_array_equal, again.load(), params)
        experiment = dataclasses.replace(tiny_lm("--iterations", "1", "--swap_every", "none"), model=RandomModel(shape))
        assert run_here(experiment, tmp_path / "run")["win_rates"]["policies"] == ["base", "iterate-1"]
    finally:
        families.cache_clear()
