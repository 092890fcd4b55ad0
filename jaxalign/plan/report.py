"""A plan for a person, and for a program."""

from typing import Any

from jaxalign.fits.references import ANSWERS
from jaxalign.plan.chips import sources
from jaxalign.plan.compiled import Compiled, TooLarge
from jaxalign.plan.judges import EVALUATION
from jaxalign.plan.left_out import NAME as LEFT_OUT
from jaxalign.plan.plan import HEADROOM, Attempt, Plan, fits

GIB = 2**30


def formula(plan: Plan) -> str:
    """What the two ends of a range are, with the evidence for them."""
    chip = plan.chip
    source, note = sources(chip.generation)["reached"]
    return (
        "bound: the compiled program's FLOPs, bytes and waits at published speeds; expected: its schedule, links at "
        f"{chip.link_reached / 1e9:.0f} GB/s and {1e6 * chip.hop_reached:.1f} us a hop as measured, and no more than "
        f"{100 * chip.reached:.1f} % of the peak ({source}: {note}); MFU = model FLOPs / (chips · peak · expected)"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Everything in the plan; sizes of one chip in GiB or bytes, times in seconds."""
    known = plan.train if isinstance(plan.train, Compiled) else None
    hours = plan.hours
    return {
        "topology": plan.topology.name,
        "slices": plan.topology.slices,
        "chips": plan.topology.chips,
        "mesh": plan.mesh,
        "fits": plan.fits,
        "remedy": plan.remedy,
        "hbm_capacity_gib": plan.chip.device_hbm_usable / GIB,
        "peak_gib": {program.name: _peak(program) for program in plan.programs},
        "headroom": {program.name: _headroom(plan, program) for program in plan.programs},
        "collective_bytes": None if known is None else known.traffic.ici_bytes + known.traffic.dcn_bytes,
        "flops": None if known is None else known.flops,
        "step_seconds_range": None if known is None else list(known.estimate.range),
        "step_seconds_evidence": formula(plan),
        "step_seconds_estimate": None if known is None else known.estimate.step_seconds,
        "tokens_per_s_per_chip_estimate": None if known is None else known.estimate.tokens_per_s_per_chip,
        "mfu_estimate": None if known is None else known.estimate.mfu,
        "compile_seconds": sum(program.compile_seconds for program in plan.programs),
        "hours_range": None if hours is None else list(hours),
        "hours_estimate": None if hours is None else hours[1],
        "chip_hours_estimate": None if hours is None else hours[1] * plan.topology.chips,
        "tokens": {"prompt": plan.sizes.prompt, "response": plan.sizes.response, "row": plan.rows.row},
        "rows": plan.step.rows,
        "calls": None if plan.calls is None else dict(plan.calls),
        "programs": {program.name: _program(program) for program in plan.programs},
        "attempts": [_attempt(plan, attempt) for attempt in plan.attempts],
        "host_peak_gib": plan.host_peak_gib,
        "verdict": _verdict(plan),
        "caveats": list(plan.caveats),
    }


def _peak(program: Compiled | TooLarge) -> float | None:
    if isinstance(program, Compiled):
        return program.memory.peak / GIB
    return None if program.needed is None else program.needed / GIB


def _headroom(plan: Plan, program: Compiled | TooLarge) -> float | None:
    peak = _peak(program)
    return None if peak is None else 1 - peak * GIB / plan.chip.device_hbm_usable


def _program(program: Compiled | TooLarge) -> dict[str, Any]:
    if isinstance(program, TooLarge):
        return {"too_large": program.reason, "compile_seconds": program.compile_seconds}
    memory, traffic, estimate = program.memory, program.traffic, program.estimate
    return {
        "memory_gib": {
            "arguments": memory.arguments / GIB,
            "temporaries": memory.temporaries / GIB,
            "outputs": memory.outputs / GIB,
            "code": memory.code / GIB,
            "resident": memory.resident / GIB,
            "peak": memory.peak / GIB,
            "host": memory.host / GIB,
        },
        "collectives": {kind: vars(of_kind) for kind, of_kind in traffic.by_kind.items()},
        "ici_bytes": traffic.ici_bytes,
        "dcn_bytes": traffic.dcn_bytes,
        "flops": program.flops,
        "model_flops": program.model_flops,
        "tokens": program.tokens,
        "estimate": {**vars(estimate), "unpriced_kernels": list(estimate.unpriced_kernels)},
        "compile_seconds": program.compile_seconds,
        "loops_counted_to_their_limit": list(program.bounded),
    }


def _attempt(plan: Plan, attempt: Attempt) -> dict[str, Any]:
    train = attempt.train
    known = isinstance(train, Compiled)
    return {
        "options": attempt.options,
        "fits": fits(train, plan.chip),
        "peak_gib": _peak(train),
        "host_gib": train.memory.host / GIB if isinstance(train, Compiled) else None,
        "step_seconds_estimate": train.estimate.step_seconds if isinstance(train, Compiled) else None,
        "compile_seconds": train.compile_seconds,
        "compiles": known,
    }


def as_text(plan: Plan) -> str:
    """The plan on a page."""
    top, chip = plan.topology, plan.chip
    slices = f", {top.slices} slices" if top.slices > 1 else ""
    mesh = " ".join(f"{axis}={size}" for axis, size in plan.mesh.items()) or "one device"
    count = plan.sizes.different(plan.together)
    several = "; several such a row" if plan.rows.row >= 2 * (plan.sizes.prompt + count * plan.sizes.response) else ""
    responses = {1: "one response", 2: "two responses"}.get(count, f"{count} responses")
    wide = max(14, *(len(program.name) + 1 for program in plan.programs))
    lines = [
        f"{top.name}{slices}: {top.chips} chips, mesh {mesh}; {chip.device_hbm_usable / GIB:.2f} GiB of memory a chip",
        f"rows of {plan.rows.row} tokens (prompt {plan.sizes.prompt}, {responses} of {plan.sizes.response}{several})",
        "",
        f"{'GiB a chip':<{wide}}    arguments  temporaries  outputs  beside   peak  headroom   host   compiled in",
    ]
    lines += [_memory_line(plan, program, wide) for program in plan.programs]
    lines += [
        "",
        f"{'a call':<{wide}}ms: bound  expected  tokens/s/chip    MFU    HFU  TFLOPs/chip  ICI MiB/chip  DCN MiB/chip  "
        "collectives",
    ]
    lines += [_cost_line(program, wide) for program in plan.programs if isinstance(program, Compiled)]
    lines += ["", formula(plan)]
    if plan.hours is not None and plan.calls is not None:
        low, high = plan.hours
        counts = ", ".join(f"{count:,} {name}" for name, count in plan.calls.items())
        evaluated = any(name.startswith(EVALUATION) for name in plan.calls)
        lines.append(
            f"whole run: {low:.1f} to {high:.1f} h, {low * top.chips:,.0f} to {high * top.chips:,.0f} chip-hours "
            f"({counts}; rows all of the "
            f"longest length; without judges that have no weights{'' if evaluated else ', and evaluation'})"
        )
    elif plan.calls is None and isinstance(plan.train, Compiled):
        low, high = plan.train.estimate.range
        lines.append(
            f"whole run: unknown, since its prompts or pairs are not here; a thousand steps of training take "
            f"{low / 3.6:.1f} to {high / 3.6:.1f} h, {low / 3.6 * top.chips:,.0f} to {high / 3.6 * top.chips:,.0f} "
            "chip-hours"
        )
    lines += plan.caveats
    if plan.attempts:
        lines += ["", *_attempt_table(plan)]
    lines += ["", _verdict(plan)]
    return "\n".join(lines)


def _memory_line(plan: Plan, program: Compiled | TooLarge, wide: int) -> str:
    if isinstance(program, TooLarge):
        return f"{program.name:<{wide}}    does not fit: {program.reason}"
    memory = program.memory
    parts = (memory.arguments, memory.temporaries, memory.outputs + memory.code, memory.resident, memory.peak)
    cells = "".join(f"{part / GIB:>{width}.2f}" for part, width in zip(parts, (13, 13, 9, 8, 7), strict=True))
    room = 100 * (1 - memory.peak / plan.chip.device_hbm_usable)
    return f"{program.name:<{wide}}{cells}{room:>8.1f} %{memory.host / GIB:>7.2f}{program.compile_seconds:>10.0f} s"


def _cost_line(program: Compiled, wide: int) -> str:
    found, sent = program.estimate, program.traffic
    kinds = ", ".join(f"{of.count} {kind} {of.bytes / 2**20:,.0f} MiB" for kind, of in sent.by_kind.items())
    return (
        f"{program.name:<{wide}}{1e3 * found.bound_seconds:>9,.0f}{1e3 * found.step_seconds:>10,.0f}"
        f"{found.tokens_per_s_per_chip:>15,.0f}"
        f"{100 * found.mfu:>6.1f} %{100 * found.hfu:>5.1f} %{program.flops / 1e12:>13.1f}"
        f"{sent.ici_bytes / 2**20:>14,.0f}{sent.dcn_bytes / 2**20:>14,.0f}  {kinds}"
    )


def _attempt_table(plan: Plan) -> list[str]:
    lines = ["training step with          peak GiB   host GiB    step ms   fits"]
    for attempt in plan.attempts:
        row = _attempt(plan, attempt)
        peak = "      ?" if row["peak_gib"] is None else f"{row['peak_gib']:7.2f}"
        host = "      -" if row["host_gib"] is None else f"{row['host_gib']:7.2f}"
        step = "       -" if row["step_seconds_estimate"] is None else f"{1e3 * row['step_seconds_estimate']:8,.0f}"
        lines.append(f"  {peak}  {host}  {step}  {'yes' if row['fits'] else 'no '}  {attempt.options}")
    return lines


ROLLOUTS = {f"{when}rollout{part}" for when in ("", EVALUATION) for part in ("", ".prompts", ".halved")}
"""Programs that grow with the rows of a rollout."""
SCORED = {
    "logp": "the log-prob pass",
    ANSWERS: "the pass that certificates take",
    "features": "the pass through the frozen trunk",
}
"""Programs that grow with the rows that are scored."""


def _verdict(plan: Plan) -> str:
    if plan.fits:
        return f"fits, with at least {100 * HEADROOM:.0f} % of the memory free"
    large = [program.name for program in plan.programs if not fits(program, plan.chip)]
    said = f"does not fit: {', '.join(large)} would leave less than {100 * HEADROOM:.0f} % of the memory free"
    if plan.remedy is not None:
        said += f"; the training step fits with {plan.remedy}"
    elif "train" in large:
        said += "; nothing that was tried helps: take more chips, split parameters further, or shorten rows"
    if ROLLOUTS & set(large):
        said += "; a rollout takes less with a smaller placement.rollout_rows, or with a larger placement.mesh.tensor"
    if LEFT_OUT in large:
        said += "; scoring what no fit trains on takes less with a larger placement.accumulate"
    if set(large) - ROLLOUTS - {"train", "logp", "features", ANSWERS, LEFT_OUT}:
        said += "; a judge takes less with a smaller placement.judge_batch_size, or in bfloat16"
    for name, what in SCORED.items():
        if name in large:
            said += f"; {what} takes less with a smaller placement.score_batch_size"
    return said
