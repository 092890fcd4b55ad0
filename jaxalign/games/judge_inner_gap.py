"""How estimates of the inner gap from a few samples a prompt err, on games of 400 answers whose truth is known.

`python -m jaxalign.games.judge_inner_gap` prints a row for each game and number of exact steps to a fixed anchor: the
gap tau KL(μ ‖ BR(μ)) over all answers, and means over prompts of its estimates: the plug-in, the second order, and the
plug-in less its noise, with standard errors of both of these. Runs log the larger one.
"""

import json
from collections.abc import Callable, Mapping

import numpy as np

from jaxalign.games.families import Matrix, bradley_terry, mixture
from jaxalign.games.inner_gap import corrected_inner_gap, denoised_inner_gap, inner_gap
from jaxalign.games.sampled_games import log_weights, mirror_steps

ANSWERS, SAMPLES, PROMPTS = 400, 8, 2000
STEP, TAU = 2.0, 0.1
STEPS = (0, 2, 10, 40)


def noisy_elo(rng: np.random.Generator) -> Matrix:
    """Logits of a rating and of noise without order, of one size."""
    rating, noise = rng.normal(size=ANSWERS), np.triu(rng.normal(size=(ANSWERS, ANSWERS)), 1)
    return np.asarray(1 / (1 + np.exp(-(rating[:, None] - rating[None, :] + noise - noise.T))))


def clusters(rng: np.random.Generator) -> Matrix:
    """Three clusters, each ahead of the next by .9."""
    block = rng.integers(0, 3, ANSWERS)
    ahead = (block[:, None] - block[None, :]) % 3
    return 0.5 + np.where(ahead == 1, 0.4, np.where(ahead == 2, -0.4, 0.0))


def few_better(rng: np.random.Generator) -> Matrix:
    """One answer in twenty beats the others .95 to .05."""
    better = rng.permutation(ANSWERS) < ANSWERS // 20
    return 0.5 + 0.45 * (better[:, None].astype(float) - better[None, :])


GAMES: Mapping[str, Callable[[np.random.Generator], Matrix]] = {
    "panel of 3": lambda rng: mixture(12 * rng.normal(size=(3, ANSWERS)), np.ones(3) / 3),
    "Elo and noise": noisy_elo,
    "Bradley-Terry": lambda rng: bradley_terry(4 * rng.normal(size=ANSWERS)),
    "three clusters": clusters,
    "one in twenty is better": few_better,
}


def rows(name: str, seed: int = 0) -> list[dict[str, float | int | str]]:
    """One game's rows; the anchor is log-normal around the uniform policy."""
    rng = np.random.default_rng([seed, list(GAMES).index(name)])
    prefer = GAMES[name](rng)
    anchor = log_weights(np.exp(0.5 * rng.normal(size=(1, ANSWERS))))
    anchor = anchor - np.log(np.exp(anchor).sum())
    found: list[dict[str, float | int | str]] = []
    for steps in STEPS:
        logp = mirror_steps(prefer[None], anchor, anchor, STEP, TAU, steps)
        policy, ratio = np.exp(logp[0]), (logp - anchor)[0]
        drawn = rng.choice(ANSWERS, (PROMPTS, SAMPLES), p=policy / policy.sum())
        sampled, ratios = prefer[drawn[:, :, None], drawn[:, None, :]], ratio[drawn]
        second = corrected_inner_gap(sampled, ratios, TAU)
        denoised = denoised_inner_gap(sampled, ratios, TAU)
        found.append(
            {
                "game": name,
                "steps": steps,
                "truth": float(inner_gap(prefer, ratio, policy, TAU)),
                "plug_in": float(inner_gap(sampled, ratios, np.full(drawn.shape, 1 / SAMPLES), TAU).mean()),
                "second": float(second.mean()),
                "second_stderr": float(second.std(ddof=1) / PROMPTS**0.5),
                "denoised": float(denoised.mean()),
                "denoised_stderr": float(denoised.std(ddof=1) / PROMPTS**0.5),
            }
        )
    return found


def main() -> None:
    """Prints a line of JSON for each game and number of samples."""
    for name in GAMES:
        for row in rows(name):
            print(
                json.dumps({key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()})
            )


if __name__ == "__main__":
    main()
