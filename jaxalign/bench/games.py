"""Games at scale: a sweep against NumPy, a game of 10,000 actions, and success on 1,000 random games.

The sweep is ten learners from 1,000 random starts on the three-action game, one compiled call in fp32. Beside it stand
the same updates in NumPy, twice: of all starts at once (fp32), which is what compilation is to be compared with, and of
one run at a time (fp64), timed on a few starts in the same process and scaled, most of which is Python's own loop over
starts. All end at the same policies, which is checked. `cpu_seconds` are the process's: beside other work they say what
`seconds` say on a quiet machine. The success rates are those of adaptive COMAL with its defaults and of COMAL with eta
0.3, tau 0.1, 100 inner steps: last iterate's duality gap at most 1e-8, uniform start.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.config.numbers import Whole
from jaxalign.config.overrides import refuse
from jaxalign.games.families import suite, three_action
from jaxalign.games.game import MatrixGame, uniform
from jaxalign.games.learner import run as play
from jaxalign.games.learners.adaptive_comal import AdaptiveComal
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.egpo import EGPO
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.magnetic import Magnetic
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.learners.nash_md import NashMD
from jaxalign.games.learners.nash_mp import NashMP
from jaxalign.games.learners.omwu import OMWU
from jaxalign.games.learners.online_ipo import OnlineIPO
from jaxalign.games.learners.onpo import ONPO
from jaxalign.games.many import steps_to_gap
from jaxalign.games.metrics import duality_gap
from jaxalign.progress import Progress

HELP = "games: sweep against NumPy, 10,000 actions, success rates"

LEARNERS = (MWU(), INPO(), NashMD(), EGPO(), OMWU(), ONPO(), Magnetic(), NashMP(), OnlineIPO(), Comal())
ETA, TAU, INNER = 0.3, 0.1, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes; the defaults are those of BENCHMARKS.md."""
    parser.add_argument("--seeds", type=Whole(), default=1000, help="starts of the sweep (default 1000)")
    parser.add_argument("--steps", type=Whole(), default=1000, help="steps of each run of the sweep (default 1000)")
    parser.add_argument("--loop-seeds", type=Whole(), default=3, help="starts the NumPy loop is timed on (default 3)")
    parser.add_argument("--actions", type=Whole(2), default=10_000, help="actions of the large game (default 10000)")
    parser.add_argument("--large-steps", type=Whole(), default=100, help="steps on the large game (default 100)")
    parser.add_argument("--games", type=Whole(), default=1000, help="random games for the success rates (default 1000)")
    parser.add_argument("--limit", type=Whole(), default=100_000, help="steps each game is given (default 100000)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: the sweep, NumPy at once and in a loop, the large game, and the two success rates."""
    if args.loop_seeds > args.seeds:
        refuse([f"--loop-seeds {args.loop_seeds}: the sweep has --seeds {args.seeds} starts only"])
    adaptive, fixed = AdaptiveComal(), Comal(ETA, TAU, INNER)
    parts: list[Callable[[], list[dict[str, Any]]]] = [
        lambda: _sweep(args.seeds, args.steps, args.loop_seeds),
        lambda: [_large(args.actions, args.large_steps)],
        lambda: [_success("adaptive COMAL", adaptive, args.games, args.limit)],
        lambda: [_success("COMAL, K = 100", fixed, args.games, args.limit)],
    ]
    rows = []
    with Progress("bench games", len(parts), "parts") as progress:
        for index, part in enumerate(parts):
            rows += part()
            progress(index + 1)
    return rows


def _sweep(seeds: int, steps: int, loop_seeds: int) -> list[dict[str, Any]]:
    starts = np.log(np.random.default_rng(0).dirichlet(np.ones(3), seeds))

    def every(game: MatrixGame, start: Any) -> Any:
        return jnp.stack([play(learner, game, start, jnp.asarray([steps]), steps).logp[0] for learner in LEARNERS])

    game = MatrixGame(jnp.asarray(three_action(), jnp.float32))
    sweep = jax.jit(jax.vmap(every, in_axes=(None, 0)))
    compiled = sweep.lower(game, jnp.asarray(starts, jnp.float32)).compile()
    singles = starts.astype(np.float32)
    (seconds, cpu), found = _median(lambda: jax.block_until_ready(compiled(game, jnp.asarray(singles))), 3)
    (together, together_cpu), arrays = _median(lambda: _loops(singles, steps), 1)
    (each, each_cpu), loop = _median(lambda: np.stack([_loops(start, steps) for start in starts[:loop_seeds]]), 1)
    scale = seeds / loop_seeds
    # fp32 against fp64 over a thousand steps, some of them of diverging learners: they agree to about 1e-4.
    ends = [np.exp(np.asarray(policies, np.float64)) for policies in (found, arrays.swapaxes(0, 1), loop)]
    difference = max(float(np.abs(ends[0] - ends[1]).max()), float(np.abs(ends[0][:loop_seeds] - ends[2]).max()))
    if difference > 5e-3:
        raise ArithmeticError(f"the sweep and NumPy end {difference:.2g} apart")
    total = seeds * len(LEARNERS) * steps

    def row(what: str, wall: float, process: float) -> dict[str, Any]:
        """One way to make the same updates; how many times its CPU time the sweep saves."""
        return {
            "what": what,
            "seconds": wall,
            "cpu_seconds": process,
            "steps_per_s": total / wall,
            "over_sweep": process / cpu,
        }

    return [
        row(f"sweep: {seeds} starts x {len(LEARNERS)} learners x {steps} steps, one call", seconds, cpu)
        | {"difference": difference},
        row("the same in NumPy, all starts at once", together, together_cpu),
        row(f"the same in a NumPy loop over starts (scaled from {loop_seeds})", scale * each, scale * each_cpu),
    ]


def _large(actions: int, steps: int) -> dict[str, Any]:
    @jax.jit
    def draw(key: Any) -> Any:
        noise = jax.random.uniform(key, (actions, actions), jnp.float32, -0.25, 0.25)
        return 0.5 + noise - noise.T

    game = MatrixGame(jax.block_until_ready(draw(jax.random.key(0))))
    start = uniform(actions)
    play_it = jax.jit(lambda game, start: play(AdaptiveComal(), game, start, jnp.asarray([steps]), steps).logp[0])
    walk = play_it.lower(game, start).compile()
    (seconds, _), found = _median(lambda: jax.block_until_ready(walk(game, start)), 1)
    return {
        "what": f"adaptive COMAL, {actions} actions, {steps} steps, one call",
        "seconds": seconds,
        "steps_per_s": steps / seconds,
        "gap_before": float(duality_gap(game, start)),
        "gap_after": float(duality_gap(game, found)),
    }


def _success(name: str, learner: Any, games: int, limit: int) -> dict[str, Any]:
    with jax.enable_x64(True):
        began = time.perf_counter()
        needed = steps_to_gap(learner, suite(np.random.default_rng(2026), games), 1e-8, limit)
        seconds = time.perf_counter() - began
    arrived = needed[needed > 0]
    return {
        "what": f"{name}: gap 1e-8 on {games} random games of 3 to 50 actions within {limit} steps",
        "seconds": seconds,
        "success": float((needed > 0).mean()),
        "median_steps": float(np.median(arrived)) if arrived.size else None,
        "p99_steps": float(np.percentile(arrived, 99)) if arrived.size else None,
    }


def _median(work: Callable[[], Any], rounds: int) -> tuple[tuple[float, float], Any]:
    """Medians of seconds and of CPU seconds of a few rounds, and the last result."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter(), time.process_time()
        result = work()
        spent.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = np.median(spent, axis=0)
    return (float(wall), float(cpu)), result


# --------------------------------------------------------------------------------------------------------------
# The updates as one would type them in NumPy, for one run [v] or many at once [n v]. memory = (anchor, what the
# learner carries).


def _normal(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _loops(start: np.ndarray, steps: int) -> np.ndarray:
    """Log-policies after so many steps of each learner, first axis; in the dtype of `start`."""
    return np.stack([_loop(step, start, steps) for step in LOOPS.values()])


def _loop(step: Callable[..., tuple[np.ndarray, Any]], start: np.ndarray, steps: int) -> np.ndarray:
    game, logp, memory = three_action().T.astype(start.dtype), start, None
    for t in range(steps):
        logp, memory = step(game, logp, start if memory is None else memory, t, start)
    return logp


def _mwu(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    return _normal(logp + ETA * (np.exp(logp) @ game)), memory


def _inpo(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    return _normal((1 - ETA * TAU) * logp + ETA * TAU * start + ETA * (np.exp(logp) @ game)), memory


def _nash_md(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    mix = _normal((1 - ETA * TAU) * logp + ETA * TAU * start)
    return _normal(mix + ETA * (np.exp(mix) @ game)), memory


def _egpo(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    pulled = (1 - ETA * TAU) * logp + ETA * TAU * start
    half = _normal(pulled + ETA * (np.exp(logp) @ game))
    return _normal(pulled + ETA * (np.exp(half) @ game)), memory


def _omwu(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    gain = np.exp(logp) @ game
    past = gain if t == 0 else memory
    return _normal(logp + ETA * (2 * gain - past)), gain


def _onpo(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    move = ETA * (np.exp(logp) @ game)
    auxiliary = _normal(memory + move)
    return _normal(auxiliary + move), auxiliary


def _magnetic(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    logp = _normal((logp + ETA * TAU * memory + ETA * (np.exp(logp) @ game)) / (1 + ETA * TAU))
    return logp, logp if (t + 1) % INNER == 0 else memory


def _nash_mp(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    half = _normal((logp + ETA * TAU * start + ETA * (np.exp(logp) @ game)) / (1 + ETA * TAU))
    return _normal((logp + ETA * TAU * start + ETA * (np.exp(half) @ game)) / (1 + ETA * TAU)), memory


def _online_ipo(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    policy = np.exp(logp)
    advantage = policy @ game - TAU * (logp - start)
    return _normal(logp + ETA * policy * (advantage - (policy * advantage).sum(-1, keepdims=True))), memory


def _comal(game: Any, logp: Any, memory: Any, t: int, start: Any) -> Any:
    logp = _normal((1 - ETA * TAU) * logp + ETA * TAU * memory + ETA * (np.exp(logp) @ game))
    return logp, logp if (t + 1) % INNER == 0 else memory


LOOPS = {
    "mwu": _mwu,
    "inpo": _inpo,
    "nash_md": _nash_md,
    "egpo": _egpo,
    "omwu": _omwu,
    "onpo": _onpo,
    "magnetic": _magnetic,
    "nash_mp": _nash_mp,
    "online_ipo": _online_ipo,
    "comal": _comal,
}
"""In the order of LEARNERS."""
