"""A training step of DPO beside TRL's trainer, with and without Liger's kernels.

The same model, read by every side from one Hugging Face directory; pairs of random tokens of full length; fp32
parameters and AdamW. Each side has a process of its own. References are cached (their log-probs were computed before)
or live (a forward pass of a second model in the step): sides are compared with ours of the same kind. The first losses
are ln 2 on all sides. TRL trains chosen and rejected as rows of their own; ours share their prompt. TRL 1.16 takes
log-probs in chunks by itself, and Liger's kernels for the layers.
"""

import argparse
import json
import sys
import time
from functools import partial
from typing import Any

import numpy as np

from jaxalign.bench.peers import processes
from jaxalign.config.numbers import Whole

HELP = "a DPO step beside TRL's trainer, with and without Liger"

NEEDS = ("torch", "transformers", "trl", "datasets", "accelerate")
LIGER = (*NEEDS, "triton", "liger_kernel")

SIDES: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "jaxalign-cached": ("cached", None),
    "TRL-cached": ("cached", NEEDS),
    "TRL+Liger-cached": ("cached", LIGER),
    "jaxalign-live": ("live", None),
    "TRL-live": ("live", NEEDS),
    "TRL+Liger-live": ("live", LIGER),
}
"""Kind of reference; what a Python of theirs needs, None: it is ours"""

GIVEN = ("model", "pairs", "prompt_tokens", "response_tokens", "steps", "dtype", "remat")

UNTIMED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and the sizes of a step."""
    parser.add_argument("--model", required=True, metavar="DIR", help="Hugging Face directory that all sides read")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help="default: all")
    parser.add_argument("--pairs", type=Whole(), default=4, help="pairs a step (default 4)")
    parser.add_argument("--prompt-tokens", type=Whole(), default=512, help="tokens of a prompt (default 512)")
    parser.add_argument("--response-tokens", type=Whole(), default=512, help="tokens of a response (default 512)")
    parser.add_argument("--steps", type=Whole(), default=5, help=f"timed steps, behind {UNTIMED} others (default 5)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of products (default bfloat16)"
    )
    parser.add_argument(
        "--remat", choices=("none", "full"), default="none", help="full: activations are made again (default none)"
    )
    parser.add_argument("--trl-python", default=sys.executable, metavar="PYTHON", help="with TRL (default: this one)")
    parser.add_argument("--limit-s", type=Whole(), default=300, help="seconds that a side may take (default 300)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: side, seconds a step, pairs/s, first loss, peak GiB, time over ours with the same kind of reference."""
    given = {name: getattr(args, name) for name in GIVEN}
    return compared([{"implementation": side, "pairs": args.pairs, **_side(side, given, args)} for side in args.sides])


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With columns for what follows from the seconds: ratios are to our side with the same kind of reference."""
    seconds = {row["implementation"]: row["seconds_per_step"] for row in rows if "seconds_per_step" in row}
    for row in rows:
        name = row["implementation"]
        if name in seconds:
            row["pairs_per_s"] = row["pairs"] / seconds[name]
            if ours := seconds.get(f"jaxalign-{SIDES[name][0]}"):
                row["over_ours"] = seconds[name] / ours
    return rows


def _side(side: str, given: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    reference, needs = SIDES[side]
    asked = {**given, "reference": reference, "liger": "Liger" in side}
    if needs is None:
        found = processes.told([sys.executable, "-m", "jaxalign.bench.trl", json.dumps(asked)], float(args.limit_s))
    elif absent := processes.missing(args.trl_python, needs):
        found = {"skipped": absent}
    else:
        script = str(processes.here("trl_dpo.py"))
        environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        found = processes.told([args.trl_python, script, json.dumps(asked)], float(args.limit_s), environment)
    return found


# --------------------------------------------------------------------------------------------------------------
# Our side, in its own process


def measured(asked: dict[str, Any]) -> dict[str, Any]:
    """Steps as a run takes them, on one device."""
    import jax

    from jaxalign.bench.train import random_pairs
    from jaxalign.data.groups import RolledGroups
    from jaxalign.losses.dpo import DPO
    from jaxalign.mesh.flags import options
    from jaxalign.mesh.sharding import RULES, MeshShape
    from jaxalign.models.low_rank import frozen, trained
    from jaxalign.models.pretrained import Pretrained
    from jaxalign.training.logps import logp_sums
    from jaxalign.training.optim import AdamW, WarmupLinear
    from jaxalign.training.row_plan import plan_rows
    from jaxalign.training.rows import pack, stack_microbatches
    from jaxalign.training.step import init_state, make_step
    from jaxalign.training.views import view_of

    mesh = MeshShape(fsdp=1).build(jax.devices()[:1])
    model = Pretrained(asked["model"], compute_dtype=asked["dtype"]).open().on(mesh, RULES, asked["remat"])
    params = model.load()
    sizes = (asked["pairs"], asked["prompt_tokens"], asked["response_tokens"])
    groups = RolledGroups(*random_pairs(*sizes, model.config.vocab))
    plan, flags = plan_rows(groups, 1), options("overlap", mesh)
    laid = partial(pack, groups, plan.rows.reshape(-1), plan.shape)
    score = jax.jit(partial(logp_sums, model), compiler_options=flags)
    sums = np.asarray(score(params, laid({"anchor": np.zeros((asked["pairs"], 2), np.float32)})))
    live = {"anchor": trained(model.computing(params))} if asked["reference"] == "live" else {}
    batch = stack_microbatches([laid({} if live else {"anchor": sums})])

    optimizer, schedule = AdamW(WarmupLinear(peak=1e-6, warmup=0.0, floor=1.0)).build(1000)
    view = view_of(model, DPO(beta=0.1))
    step = jax.jit(make_step(view, optimizer, schedule), donate_argnums=0, compiler_options=flags)
    state, base = init_state(params, optimizer), frozen(params)
    del params
    losses, seconds = [], []
    for _ in range(asked["steps"] + UNTIMED):
        began = time.perf_counter()
        state, metrics = step(state, base, live, jax.device_put(batch))
        losses.append(float(metrics["loss"]))
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - began)
    stats = jax.devices()[0].memory_stats()
    return {
        "backend": f"jax {jax.__version__} {jax.devices()[0].device_kind}",
        "seconds_per_step": float(np.median(seconds[UNTIMED:])),
        "first_loss": losses[0],
        "peak_gib": stats["peak_bytes_in_use"] / 2**30 if stats else None,
    }


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
