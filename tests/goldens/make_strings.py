"""Makes the exact rows of BENCHMARKS.md on the game over strings: mirror descent on its games from the policy that the
config begins with, nothing sampled and nothing fitted. And COMAL with least squares on as many sampled pairs as a fit
of the config has: what sampling alone leaves of the gap, without a network.

PYTHONPATH=. python tests/goldens/make_strings.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.config.load import load
from jaxalign.games.divergence import kl
from jaxalign.games.game import MatrixGame
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.metrics import duality_gap
from jaxalign.games.solve import nash
from jaxalign.machine import Machine
from jaxalign.oracles.cyclic_strings import all_strings
from jaxalign.rollouts.seam import rolled

CONFIG = Path(__file__).parents[2] / "configs" / "games" / "cyclic_strings.py"
ITERATIONS = 36
DRAWS = [np.random.default_rng(seed) for seed in range(6)]


def main() -> None:
    experiment = load(CONFIG)
    machine = Machine(experiment.model.open(), experiment.placement, experiment.seed)
    prompts = tuple(experiment.evaluation.prompts.open(None))
    base = rolled(machine.roller(experiment.evaluation.rollout), machine.params(None), prompts, machine.key("heldout"))
    step, tau, oracle = 1 / experiment.loss.eta, experiment.loss.tau, experiment.feedback.oracle
    learners = {
        "COMAL": Comal(step, tau, experiment.swap_every),
        "INPO": INPO(step, tau),
        "iterative IPO": MWU(step),
    }
    with jax.enable_x64(True):
        starts = base.logps.sum(-1, dtype=np.float64)
        strings = all_strings(oracle.letters, oracle.length)
        tables = [0.5 + oracle.game(prompt.text).advantage(strings) for prompt in prompts]
        for name, learner in learners.items():
            rows = [row(learner, table, start) for table, start in zip(tables, starts, strict=True)]
            gaps, distance = np.mean([gaps for gaps, _ in rows], 0), np.mean([distance for _, distance in rows])
            shown = " | ".join(f"{gaps[number]:.4f}" for number in range(0, ITERATIONS + 1, 6))
            print(f"| {name} | {shown} | median of the last 12: {np.median(gaps[-12:]):.4f} | KL {distance:.3f}")
        ends = [
            np.mean([sampled(experiment, *each, rng) for each in zip(tables, starts, strict=True)]) for rng in DRAWS
        ]
        print("least squares on sampled pairs, last gap of each draw:", " ".join(f"{end:.3f}" for end in ends))


def row(learner, table, start) -> tuple[list[float], float]:
    """Duality gaps of all iterates, and KL(Nash ‖ last) in nats."""
    game, begin = MatrixGame(jnp.asarray(table)), jax.nn.log_softmax(jnp.asarray(start))
    found = [begin, *run(learner, game, begin, jnp.arange(1, ITERATIONS + 1), ITERATIONS).logp]
    truth = jnp.log(jnp.maximum(jnp.asarray(nash(table)), 1e-300))
    return [float(duality_gap(game, each)) for each in found], float(kl(truth, found[-1]))


def sampled(experiment, table, start, rng) -> float:
    """Duality gap at the end of COMAL whose steps are least squares on drawn pairs; answers not drawn keep their
    odds."""
    feedback, step, tau = experiment.feedback, 1 / experiment.loss.eta, experiment.loss.tau
    # of the times that a prompt is asked, those whose pairs are trained on
    asked = round(feedback.prompts_per_iteration / len(feedback.prompts.texts) * (1 - feedback.unseen))
    samples, count, votes = feedback.rollout.samples, feedback.pairing.pairs_per_prompt, feedback.pairing.label.votes
    logp = anchor = start - np.logaddexp.reduce(start)
    signs = np.eye(len(logp))
    for iteration in range(ITERATIONS):
        if iteration % experiment.swap_every == 0:
            anchor = logp
        rows, wanted = [], []
        for answers in rng.choice(len(logp), (asked, samples), p=np.exp(logp)):
            one, other = answers[rng.integers(0, samples, (2, 16 * count))]
            differ = np.flatnonzero(one != other)[:count]
            one, other = one[differ], other[differ]
            # a prompt's pairs weigh as much together as there are pairs that differ among all of its answers
            weight = 1 - ((np.bincount(answers) / samples) ** 2).sum()
            wins, pull = rng.binomial(votes, table[one, other]) / votes - 0.5, logp - anchor
            rows.append(weight**0.5 * (signs[one] - signs[other]))
            wanted.append(weight**0.5 * step * (wins - tau * (pull[one] - pull[other])))
        logp = logp + np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted))[0]
        logp = logp - np.logaddexp.reduce(logp)
    return float(duality_gap(MatrixGame(jnp.asarray(table)), jnp.asarray(logp)))


if __name__ == "__main__":
    main()
