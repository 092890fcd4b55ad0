"""Memory of one device, estimated from shapes: what is kept while rolling out, while training, and while rows are only
scored.

    rollouts     policy + its copy for decoding + KV cache + logits of one token a row; of a mixture, the anchor's too
    training     policy + what is trained of it + gradients + optimizer state + live references + activations + logits;
                 of a step that looks ahead, the policy that did
    references   the policy that is scored + those that the loop holds beside it + activations of a layer + logits
    left_out     what training keeps, without gradients, + activations of a layer + logits of groups that no fit is
                 trained on, scored by its loss

Rows that are scored may hold more groups, or longer ones, and be more than those of a step, so that they need more.
Activations are counted as the backward pass needs them (Korthikanti et al. 2022, arXiv 2205.05198, §4, with the parts
of these decoders): see `activations`. What XLA saves by fusing, or loses by padding, is not in it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import jax

from jaxalign import programs
from jaxalign.contracts.extras import extras_of
from jaxalign.data.groups import TrainingGroups
from jaxalign.data.trained import as_trained
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, Outcome, judged
from jaxalign.feedback.recorded import Recording
from jaxalign.feedback.sampled import Sampling
from jaxalign.mesh.flags import platform_of
from jaxalign.mesh.program import Program
from jaxalign.mesh.sharding import bytes_per_device, row_shards
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.low_rank import trained
from jaxalign.models.remat import tighter
from jaxalign.ops.attention.dispatch import BLOCK
from jaxalign.ops.linear_logp.costs import logits_bytes
from jaxalign.rollouts.contract import AnchoredRoller
from jaxalign.rollouts.lengths import encoded
from jaxalign.training.packed import Packed
from jaxalign.training.row_rule import Planned, RowRule
from jaxalign.training.rows import RowShape, Sizes
from jaxalign.types import Combiner, Prompt

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """More than the device has is a finding, more than the share `tight` of it a warning."""

    tight: float = 0.9

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        config = opened.model.config
        phases = {"training": training(opened), "rollouts": rollouts(opened), **scoring(opened)}
        name = max(phases, key=lambda phase: sum(phases[phase].values()))
        peak, there = sum(phases[name].values()), opened.memory
        measured: Measured = {
            "GiB_a_device": peak / GIB,
            "of": there / GIB,
            "phase": name,
            **{phase: summed(parts) for phase, parts in phases.items()},
        }
        too_much = f"{name} needs {peak / GIB:.2f} GiB a device, there are {there / GIB:.2f}: {advice(config, name)}"
        close = (
            f"within {1 - self.tight:.0%} of the memory: {advice(config, name)}" if peak > self.tight * there else ""
        )
        yield judged("memory of a device", measured, [too_much] if peak > there else [], close)


def training(opened: Opened) -> dict[str, int]:
    """Bytes by part while a fit runs; the policy that it began with is kept beside the one that is trained."""
    experiment = opened.experiment
    made = programs.training(experiment, opened.machine, steps=1)
    changed = bytes_per_device(made.abstract.params)
    # `last` is the policy that the fit began with, and so is the anchor if it is swapped every iteration; in the
    # compute dtype it is a copy all the same.
    live = {role: bytes_per_device(kept) for role, kept in made.references.items()}
    copies = [size for role, size in live.items() if size < changed or (role != "last" and experiment.swap_every != 1)]
    rows, length, scored = row_sizes(opened)
    return {
        "policy": bytes_per_device(opened.machine.abstract),
        "trained copy": changed,
        "look-ahead": changed if experiment.step_rule.period > 1 else 0,
        "gradients": changed * gradient_trees(experiment.combiner, experiment.placement.accumulate),
        "optimizer": bytes_per_device(made.abstract.opt_state),
        "live references": sum(copies) + bytes_per_device(made.abstract.references),
        "activations": activations(opened.model.config, rows, length, opened.mesh.shape["tensor"]),
        "logits": training_logits(opened, scored),
    }


def scoring(opened: Opened) -> dict[str, dict[str, int]]:
    """Bytes by part, by phases: while references are scored, and while groups are that no fit is trained on; those that
    there are."""
    experiment, found, kept = opened.experiment, dict[str, dict[str, int]](), training(opened)
    fit, needs = experiment.fit, experiment.loss.needs
    sampling = isinstance(opened.comparer, Sampling) and bool(opened.comparer.spec.left_out)
    apart = sampling or opened.comparer.heldout is not None
    if experiment.reference.stored(needs) or (apart and needs):
        size = opened.machine.scorer.batch_size
        rows = size // row_shards(opened.mesh)
        beside = programs.beside_scoring(experiment, opened.machine)
        found["references"] = {
            "policy": kept["policy"],
            "policies beside": beside,
            **passing(opened, rows, passed(opened, fit.scored, size, False)),
        }
    if apart:
        rows, shape = left_out(opened)
        dropped = {"gradients", "activations", "logits", *(() if fit.evaluate_every is not None else ("optimizer",))}
        stays = {name: size for name, size in kept.items() if name not in dropped}
        found["left_out"] = stays | passing(opened, rows, shape)
    return found


def trained_on(opened: Opened) -> Planned:
    """Rows of a step of the fit: those of the recorded pairs, or of the longest answers to these prompts."""
    experiment = opened.experiment
    if not isinstance(opened.comparer, Recording):
        return programs.planned_step(experiment, opened.machine, sizes_of(opened))
    groups = kept(opened)
    _, steps = programs.steps_of(experiment, opened.machine, 0, groups)
    return Planned(steps.rows, steps.shape)


def kept(opened: Opened) -> TrainingGroups:
    """The recorded pairs that rows hold."""
    assert isinstance(opened.comparer, Recording)
    rows, groups = opened.experiment.fit.rows, as_trained(opened.experiment.loss, opened.comparer.pairs)
    return (replace(rows, too_long="drop") if isinstance(rows, Packed) else rows).within(groups)[0]


def passed(opened: Opened, rule: RowRule, size: int, left_out: bool) -> RowShape:
    """The shape of rows that are scored, `size` of them together: of what is trained on, or of what is `left_out`."""
    if not isinstance(opened.comparer, Recording):
        return rule.full(sizes_of(opened))
    found = opened.comparer.heldout if left_out else opened.comparer.pairs
    assert found is not None, "no pairs are held out"
    return rule.passes(as_trained(opened.experiment.loss, found), size).shape


def left_out(opened: Opened) -> tuple[int, RowShape]:
    """Rows on a device that are scored by the fit's loss together, and their shape."""
    experiment, shards = opened.experiment, row_shards(opened.mesh)
    fit, accumulate = experiment.fit, experiment.placement.accumulate
    if "batch" not in extras_of(experiment.loss):
        rows = math.ceil(programs.rows_scored(experiment, experiment.loss) / shards)
        return rows, passed(opened, fit.scored, rows * shards, True)
    if not isinstance(opened.comparer, Recording):
        planned = programs.planned_step(experiment, opened.machine, sizes_of(opened))
        return math.ceil(planned.rows / accumulate / shards), planned.shape
    assert opened.comparer.heldout is not None, "no pairs are held out"
    multiple = programs.multiple_of(experiment, opened.machine)
    groups = as_trained(experiment.loss, opened.comparer.heldout)
    shape = fit.rows.together(groups, fit.batch_size, multiple).shape
    rows = fit.rows.rows_a_step(fit.batch_size) or trained_on(opened).rows
    return math.ceil(rows / accumulate / shards), shape


def sizes_of(opened: Opened) -> Sizes:
    """The longest groups of answers to these prompts."""
    sizes = replace(opened.experiment.feedback.sizes(opened.model), prompt=longest(opened, opened.prompts))
    return sizes.strayed if "stray" in extras_of(opened.experiment.loss) else sizes


def passing(opened: Opened, rows: int, shape: RowShape) -> dict[str, int]:
    """Bytes by part of a forward pass of so many rows of a device, of which nothing is kept."""
    config, tensor = opened.model.config, opened.mesh.shape["tensor"]
    if not isinstance(config, DecoderConfig):
        return {"activations": 0, "logits": training_logits(opened, rows * shape.scored, trained=False)}
    layer = itemsize(config) * config.width + everything(config, shape.row, tensor)
    return {
        "activations": round(rows * shape.row * layer),
        "logits": training_logits(opened, rows * shape.scored, trained=False),
    }


def rollouts(opened: Opened) -> dict[str, int]:
    """Bytes by part while the larger of the two sets of answers is sampled; nothing but the policy for tables, and
    where another machine decodes."""
    answered = [(opened.comparer.roller, opened.prompts)] if isinstance(opened.comparer, Sampling) else []
    if opened.heldout:
        answered.append((opened.heldout_roller, opened.heldout))
    found = [
        decoding(opened, program, isinstance(roller, AnchoredRoller))
        for roller, prompts in answered
        for program in roller.programs(opened.machine.abstract, longest(opened, prompts))
        if isinstance(opened.model.config, DecoderConfig)
    ]
    policy = {"policy": bytes_per_device(opened.machine.abstract)}
    return max((policy | parts for parts in found), key=lambda parts: sum(parts.values()), default=policy)


def decoding(opened: Opened, program: Program, anchored: bool) -> dict[str, int]:
    """Bytes by part, beside the policy's own, while a program decodes; `anchored` with an anchor, which shares what is
    frozen."""
    config, work, tensor = opened.model.config, program.work, opened.mesh.shape["tensor"]
    assert isinstance(config, DecoderConfig), "a table decodes nothing"
    size, shards = itemsize(config), row_shards(opened.mesh)
    rows, tokens = work.cached // shards, work.kept // shards
    head = config.kv_heads * config.head_dim / tensor
    return {
        "anchor": bytes_per_device(trained(opened.machine.abstract)) if anchored else 0,
        # gathered over the axes that split tokens, still split over tensor
        "copy for decoding": sum(leaf.size for leaf in jax.tree.leaves(program.arguments[0])) * size // tensor,
        "KV cache": round(tokens * 2 * head * config.layers * size),
        "logits": 4 * rows * config.vocab // tensor,
    }


def activations(config: object, rows: int, length: int, tensor: int) -> int:
    """Bytes of what the backward pass keeps of `rows` rows of `length` tokens.

    Letters: d width, q and k widths of queries and of keys, f of the feed-forward layer, n heads, s row length, c bytes
    of the compute dtype. A token of a layer keeps

        none        c (4d + 2q + 2k + 4f) + 8d + 8ns     norms' inputs are wide, scores and their softmax are fp32
        dots        c (3d + 2q + 2k + 2f)                its input and the results of its matrix products and attention
        attention   c (d + q)                            its input and what attention found
        full        c d                                  its input

    and with all but none one layer at a time is as with none, while it is computed again. Rows longer than a block of
    attention keep no scores: 4n in place of 8ns.
    """
    if not isinstance(config, DecoderConfig):
        return 0
    c, d, whole = itemsize(config), config.width, everything(config, length, tensor)
    q, k, f = widths(config, tensor)
    kept = {
        "none": whole,
        "dots": c * (3 * d + 2 * q + 2 * k + 2 * f),
        "attention": c * (d + q),
        "full": float(c * d),
    }[config.remat]
    again = 0.0 if config.remat == "none" else whole
    return round(rows * length * (config.layers * kept + again))


def everything(config: DecoderConfig, length: int, tensor: int) -> float:
    """Bytes of all that a token of a layer makes; letters as of `activations`."""
    c, d = itemsize(config), config.width
    q, k, f = widths(config, tensor)
    scores = config.heads / tensor * (8 * length if length <= BLOCK else 4)
    return c * (4 * d + 2 * q + 2 * k + 4 * f) + 8 * d + scores


def widths(config: DecoderConfig, tensor: int) -> tuple[float, float, float]:
    """q, k and f of a device."""
    f = config.mixture.chosen * config.mixture.mlp if config.mixture else config.mlp
    return config.heads * config.head_dim / tensor, config.kv_heads * config.head_dim / tensor, f / tensor


def training_logits(opened: Opened, scored: int, trained: bool = True) -> int:
    """Of the log-prob pass, as the op says, with the vocabulary split over tensor."""
    rows, platform = opened.model.config.vocab // opened.mesh.shape["tensor"], platform_of(opened.mesh.devices.flat[0])
    return logits_bytes(platform, scored, rows, alone=opened.mesh.size == 1, trained=trained)


def row_sizes(opened: Opened) -> tuple[int, int, int]:
    """Rows of a microbatch on a device, tokens of the longest row, scored tokens on a device."""
    planned = trained_on(opened)
    rows = math.ceil(planned.rows / opened.experiment.placement.accumulate / row_shards(opened.mesh))
    return rows, planned.shape.row, rows * planned.shape.scored


def gradient_trees(combiner: Combiner, accumulate: int) -> int:
    """One, or each objective's and the direction made of them; of several microbatches the sums beside those of one:
    1 and 2, o + 1 and 2 o + 1, as XLA's CPU compiler has it too."""
    objectives = combiner.objectives or 1
    made = 1 if combiner.objectives is None else objectives + 1
    return made if accumulate == 1 else made + objectives


def longest(opened: Opened, prompts: Iterable[Prompt]) -> int:
    """Tokens of the longest of some prompts."""
    return max(len(encoded(opened.model.chat, prompt)) for prompt in prompts)


def itemsize(config: DecoderConfig) -> int:
    """Bytes of a number in the compute dtype."""
    return 2 if config.compute_dtype == "bfloat16" else 4


def summed(parts: Mapping[str, int]) -> str:
    """Parts in bytes as a sum in GiB, without those that are empty."""
    return " + ".join(f"{name} {size / GIB:.3g}" for name, size in parts.items() if size)


def advice(config: object, phase: str) -> str:
    """What to change in a config whose `phase` does not fit."""
    if phase == "rollouts":
        return (
            "lower placement.rollout_rows or feedback.rollout.samples, or split over more devices "
            "(placement.mesh.fsdp, placement.mesh.tensor)"
        )
    if phase == "references":
        return (
            "lower placement.score_batch_size, have shorter fit.scored_rows, or split over more devices "
            "(placement.mesh.fsdp)"
        )
    if phase == "left_out":
        return (
            "have shorter fit.scored_rows, raise placement.accumulate, or split over more devices (placement.mesh.fsdp)"
        )
    less = tighter(config.remat) if isinstance(config, DecoderConfig) else ()
    remat = f" set placement.remat to {' or '.join(less)}," if less else ""
    return (
        f"raise placement.accumulate,{remat} use Cached references, or split over more devices (placement.mesh.fsdp, "
        "placement.mesh.tensor)"
    )


CHECK = Memory()
