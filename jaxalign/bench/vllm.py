"""Sampling beside vLLM and transformers' generate: the same model, read by every side from one Hugging Face directory.

Prompts are random tokens, every answer has all its tokens, drawn at temperature 1. Each side has a process of its own;
medians of rounds behind a first one, which compiles. Ours draws as a run does: parameters in fp32, products in `dtype`;
the others hold parameters in `dtype`.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np

from jaxalign.bench.peers import processes
from jaxalign.config.numbers import Whole

HELP = "sampling beside vLLM and transformers"

OURS = "jaxalign-lockstep"

SIDES: dict[str, tuple[str, tuple[str, ...] | None]] = {
    OURS: ("lockstep", None),
    "vLLM": ("vllm", ("vllm",)),
    "jaxalign-slots": ("slots", None),
    "transformers": ("transformers", ("torch", "transformers")),
}
"""Name in its process; what its Python needs, None: it is ours"""

GIVEN = ("model", "prompts", "samples", "prompt_tokens", "response_tokens", "rows", "dtype", "rounds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and the sizes of a rollout."""
    parser.add_argument("--model", required=True, metavar="DIR", help="Hugging Face directory that all sides read")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help="default: all")
    parser.add_argument("--prompts", type=Whole(), default=64, help="prompts (default 64)")
    parser.add_argument("--samples", type=Whole(), default=4, help="responses a prompt (default 4)")
    parser.add_argument("--prompt-tokens", type=Whole(), default=256, help="tokens of a prompt (default 256)")
    parser.add_argument("--response-tokens", type=Whole(), default=256, help="tokens of a response (default 256)")
    parser.add_argument("--rows", type=Whole(), default=256, help="responses together, ours (default 256)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of products (default bfloat16)"
    )
    parser.add_argument("--rounds", type=Whole(), default=2, help="timed rounds (default 2)")
    parser.add_argument("--vllm-python", default=sys.executable, metavar="PYTHON", help="with vLLM (default: this one)")
    parser.add_argument(
        "--trl-python", default=sys.executable, metavar="PYTHON", help="with transformers (default: this one)"
    )
    parser.add_argument("--limit-s", type=Whole(), default=300, help="seconds that a side may take (default 300)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: side, seconds, tokens/s, tokens/s over those of our lockstep."""
    tokens = args.prompts * args.samples * args.response_tokens
    return compared([{"implementation": side, "tokens": tokens, **_side(side, args)} for side in args.sides])


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With columns for what follows from the seconds."""
    seconds = {row["implementation"]: row["seconds"] for row in rows if "seconds" in row}
    for row in rows:
        if (name := row["implementation"]) in seconds:
            row["tokens_per_s"] = row["tokens"] / seconds[name]
            if OURS in seconds:
                row["rate_over_ours"] = seconds[OURS] / seconds[name]
    return rows


def _side(side: str, args: argparse.Namespace) -> dict[str, Any]:
    name, needs = SIDES[side]
    asked = json.dumps({key: getattr(args, key) for key in GIVEN})
    if needs is None:
        return processes.told([sys.executable, "-m", "jaxalign.bench.vllm", name, asked], float(args.limit_s))
    python = args.vllm_python if name == "vllm" else args.trl_python
    if absent := processes.missing(python, needs):
        return {"skipped": absent}
    command = [python, str(processes.here("generate.py")), name, asked]
    return processes.told(command, float(args.limit_s), {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""})


# --------------------------------------------------------------------------------------------------------------
# Our side, in its own process


def measured(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """An engine as a run calls it, on one device."""
    import jax

    from jaxalign.bench.rollout import drawn, medians, opened
    from jaxalign.models.pretrained import Pretrained
    from jaxalign.rollouts.contract import Task
    from jaxalign.rollouts.lockstep import Lockstep
    from jaxalign.rollouts.samplers import Temperature
    from jaxalign.rollouts.slots import Slots

    model = Pretrained(asked["model"], compute_dtype=asked["dtype"]).open()
    params = model.load()
    shape = (asked["prompts"], asked["prompt_tokens"])
    prompts = np.random.default_rng(0).integers(3, model.config.vocab, shape).tolist()
    task = Task(asked["samples"], asked["response_tokens"], Temperature(1.0), ())
    drawer = opened(Lockstep() if name == "lockstep" else Slots(), task, model, asked["rows"])
    median = medians({name: lambda: drawn(drawer, params, prompts)}, asked["rounds"])
    return {"backend": f"jax {jax.__version__} {jax.devices()[0].device_kind}", "seconds": median[name]}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], json.loads(sys.argv[2]))))
