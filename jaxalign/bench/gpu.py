"""Ours beside others on one NVIDIA GPU, within a budget of minutes: training steps and TRL's, with Liger's kernels too;
log-probs and Liger's; attention and torch's; sampling and vLLM's.

Each side of each benchmark is a unit: a process with a limit of its own, the most telling ones first. Behind every unit
results.json and table.md in --out are written anew, so that a run that is cut keeps what it had. What is not installed
is named; a unit that the budget has no time for is listed as left out. It has not run on a GPU yet: on a CPU, with
`--size tiny`, it was tried whether it keeps its word.
"""

import argparse
import datetime
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from jaxalign.bench import logp, trl, vllm
from jaxalign.bench.peers.processes import told
from jaxalign.config.numbers import Whole

HELP = "one GPU: steps, log-probs, attention, sampling beside TRL, Liger, torch and vLLM, in minutes"

SIZES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tiny": {
            "trl": "--pairs 2 --prompt-tokens 8 --response-tokens 8 --steps 2 --dtype float32",
            "logp": "--tokens 64 --width 32 --vocabulary 600 --rounds 1 --repeats 1",
            "attention": "--tokens 640 --kv-heads 1 --group 2 --head 16 --repeats 1",
            "vllm": "--prompts 2 --samples 2 --prompt-tokens 8 --response-tokens 8 --rows 4 --rounds 1 --dtype float32",
        },
        "1b": {
            "trl": "--pairs 4 --prompt-tokens 512 --response-tokens 512 --steps 5",
            "logp": "--tokens 8192 --width 2048 --vocabulary 128256 --dtype bfloat16 --rounds 1 --repeats 5",
            "attention": "--rows 2 --tokens 4096 --kv-heads 8 --group 4 --head 64 --dtype bfloat16 --repeats 5",
            "vllm": "--prompts 64 --samples 4 --prompt-tokens 256 --response-tokens 256 --rows 256 --rounds 2",
        },
    }
)
"""Model → options of each benchmark. 1b is that of Llama-3.2-1B, with random weights."""

LEAST_S = 20
"""seconds; with fewer left no unit begins"""


@dataclass(frozen=True)
class Unit:
    """One side of a benchmark, or all of them where they share a process (no side)."""

    part: str
    options: tuple[str, ...]
    seconds: int
    """the most that it may take"""
    side: str | None = None

    @property
    def name(self) -> str:
        """As lists of units have it."""
        return f"{self.part}: {self.side or ' '.join(self.options)}"


def units() -> tuple[Unit, ...]:
    """In the order in which they are measured: every part's main rivals come before anybody's variants."""
    causal, pairs = (Unit("attention", ("--trees", trees), 60) for trees in ("causal", "pairs"))
    main = (
        *(Unit("trl", (), 120, side) for side in list(trl.SIDES)[:4]),
        *(Unit("logp", (), 60, side) for side in ("jaxalign auto", "Liger", logp.TORCH)),
        causal,
        *(Unit("vllm", (), 120, side) for side in list(vllm.SIDES)[:2]),
    )
    further = (
        *(Unit("trl", (), 120, side) for side in list(trl.SIDES)[4:]),
        *(Unit("vllm", (), 90, side) for side in list(vllm.SIDES)[2:]),
        *(Unit("logp", (), 60, side) for side in logp.SIDES if side not in {unit.side for unit in main}),
        pairs,
    )
    return main + further


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, how long, and with which Pythons."""
    parser.add_argument("--out", default="runs/bench-gpu", metavar="DIR", help="default: runs/bench-gpu")
    parser.add_argument("--budget-s", type=Whole(), default=720, help="seconds for everything (default 720)")
    parser.add_argument("--size", choices=SIZES, default="1b", help="of the model (default 1b)")
    parser.add_argument("--trl-python", default=sys.executable, metavar="PYTHON", help="with TRL (default: this one)")
    parser.add_argument("--vllm-python", default=sys.executable, metavar="PYTHON", help="with vLLM (default: this one)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: part, implementation, and the figures of its benchmark; also in the files of --out."""
    began = time.monotonic()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {
        "machine": machine(),
        "size": args.size,
        "budget_s": args.budget_s,
        "parts": {},
        "left_out": [],
    }

    def left() -> float:
        return args.budget_s - (time.monotonic() - began)

    for unit, rows in measured(args, out, left):
        if rows is None:
            found["left_out"].append(unit.name)
        else:
            found["parts"].setdefault(unit.part, []).extend(rows)
        found["spent_s"] = args.budget_s - left()
        keep(out, found)
        said = "left out: no time" if rows is None else ", ".join(row.get("skipped", "measured") for row in rows)
        print(f"{found['spent_s']:5.0f} s  {unit.name}: {said}", file=sys.stderr, flush=True)
    return [{"part": part, **row} for part, rows in compared(found["parts"]).items() for row in rows]


def measured(
    args: argparse.Namespace, out: pathlib.Path, left: Callable[[], float]
) -> Iterator[tuple[Unit, list[dict[str, Any]] | None]]:
    """Each unit with its rows; None for those that there was no time for."""
    model = out / f"model-{args.size}"
    unmade = "" if (model / "config.json").exists() else made(args.size, model, left())
    for unit in units():
        if unmade and unit.part in ("trl", "vllm"):
            yield unit, [{"implementation": unit.side, "skipped": f"no model: {unmade}"}]
        elif left() < LEAST_S:
            yield unit, None
        else:
            yield unit, rows_of(unit, args, model, min(float(unit.seconds), left()))


def made(size: str, directory: pathlib.Path, seconds: float) -> str:
    """Writes the model that all sides read; why it could not, or nothing."""
    draft = directory.with_name(directory.name + ".draft")
    shutil.rmtree(draft, ignore_errors=True)
    found = told(
        [sys.executable, "-m", "jaxalign.bench.peers.sized", size, str(draft)], seconds, {"JAX_PLATFORMS": "cpu"}
    )
    if "skipped" in found:
        return str(found["skipped"])
    draft.rename(directory)
    return ""


def rows_of(unit: Unit, args: argparse.Namespace, model: pathlib.Path, seconds: float) -> list[dict[str, Any]]:
    """What `jaxalign bench` finds. Sides have their limit from it, and are killed by it; it has a few seconds more."""
    words = [*SIZES[args.size][unit.part].split(), *unit.options]
    if unit.side is not None:
        words += ["--sides", unit.side.replace(" ", "-"), "--limit-s", str(max(int(seconds), 1))]
    if unit.part in ("trl", "vllm"):
        words += ["--model", str(model), "--trl-python", args.trl_python]
    if unit.part == "vllm":
        words += ["--vllm-python", args.vllm_python]
    command = [sys.executable, "-m", "jaxalign", "bench", unit.part, "--json", *words]
    # Two frameworks in one process share the memory of the device.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if unit.side is None else {}
    rows = told(
        command, seconds + 10, {"JAX_COMPILATION_CACHE_DIR": str(model.parent / "compiled"), **shared}, whole=True
    )
    name = {"implementation": unit.side} if unit.side else {"implementation": "all"}
    rows = [{**name, **rows}] if isinstance(rows, dict) else rows
    return [{**row, "options": " ".join(unit.options)} if unit.options else row for row in rows]


def compared(parts: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The parts with the ratios of each benchmark: its sides came one by one."""
    of = {"trl": trl.compared, "logp": logp.compared, "vllm": vllm.compared}
    return {part: of.get(part, list)([dict(row) for row in rows]) for part, rows in parts.items()}


def keep(out: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Writes both files anew: each is whole at any moment."""
    told_now = {**found, "parts": compared(found["parts"])}
    for name, text in (("results.json", json.dumps(told_now, indent=2) + "\n"), ("table.md", table(told_now))):
        draft = out / f"{name}.draft"
        draft.write_text(text)
        os.replace(draft, out / name)


def table(found: Mapping[str, Any]) -> str:
    """The results for people: a table a part, in Markdown."""
    lines = [f"{name}: {value}" for name, value in found["machine"].items()]
    lines += [f"{found.get('spent_s', 0):.0f} of {found['budget_s']} s, size {found['size']}", ""]
    for part, rows in found["parts"].items():
        columns = list(dict.fromkeys(name for row in rows for name in row))
        lines += [
            f"## jaxalign bench {part} {SIZES[found['size']][part]}",
            "",
            _line(columns),
            _line(["---"] * len(columns)),
        ]
        lines += [_line([_cell(row.get(name)) for name in columns]) for row in rows] + [""]
    lines += [f"Left out, for the budget was spent: {name}" for name in found["left_out"]]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/")


def machine() -> dict[str, str]:
    """When, and on what."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        gpus = "none that nvidia-smi knows"
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"date": now, "gpu": gpus.replace("\n", "; "), "jax": version("jax"), "python": sys.version.split()[0]}
