"""Preference data of many sizes: a run tokenises and trains on them, then they are read by index through Grain.

Synthetic pairs with the lengths of short chats are written as JSON Lines. A run of DPO tokenises all of them with
SmolLM2's tokenizer and template in parallel processes, and trains a model of width 32 on some: a step of it is so short
that a slow reader would show. Some pairs are as long as the run takes them, so that rows of few pairs are as wide as
those of many, and what memory grows by is the data's. Then every pair is read once in a shuffled order, batch by batch,
one ahead of the reader. Both are processes of their own; memory is the largest resident set of a process (VmHWM), pages
of mapped files included.
"""

import argparse
import json
import pathlib
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.config.numbers import Whole

if TYPE_CHECKING:
    from jaxalign.feedback.recorded import Recorded
    from jaxalign.models.model import Model

HELP = "memory and speed of preference data, tokenised and read"

WORDS = 2000
LONGEST = 100
"""Words of a prompt or an answer."""
MEDIANS = {"prompt": 20.0, "chosen": 40.0, "rejected": 40.0}
EVERY = 8
"""Pairs of which the first has the longest texts. That none of the 256 of sixteen steps has them comes once in 7e14
runs."""
PROMPT, ANSWER = 128, 256
"""Tokens of a prompt or an answer that are kept: fewer than the longest have."""
BATCH = 64
TRAINED = 16
"""Pairs of a training step."""
RUN = "run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many pairs."""
    parser.add_argument(
        "--pairs", type=Whole(), nargs="+", default=[10_000, 100_000], metavar="N", help="sizes (default 10000 100000)"
    )
    parser.add_argument("--steps", type=Whole(2), default=64, metavar="N", help="training steps (default 64)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: pairs, megabytes of the file and of the store, pairs/s and peak GiB of the run and of reading alone."""
    return [row(count, args.steps) for count in args.pairs]


def row(count: int, steps: int) -> dict[str, Any]:
    """One size."""
    with tempfile.TemporaryDirectory(prefix="jaxalign-bench-") as folder:
        place = pathlib.Path(folder)
        write(place / "pairs.jsonl", count)
        trained, taken = alone(partial(train, place, steps)), alone(partial(iterate, place))
        store = sum(file.stat().st_size for file in stored_in(place).iterdir())
        return {
            "pairs": count,
            "file_mb": (place / "pairs.jsonl").stat().st_size / 1e6,
            "store_mb": store / 1e6,
            "tokenised_pairs_per_s": count / trained["opening_s"],
            "tokenising_process_peak_gib": trained["children_peak_gib"],
            "training_peak_gib": trained["peak_gib"],
            "trained_pairs_per_s": trained["pairs_per_s"],
            "share_of_steps_spent_waiting": trained["waited"],
            "read_pairs_per_s": count / taken["seconds"],
            "reading_peak_gib": taken["peak_gib"],
        }


def write(path: pathlib.Path, count: int) -> None:
    """Pairs of words with lengths as chats have them: log-normal, median 20 words a prompt and 40 an answer. Of every
    `EVERY` pairs one has `LONGEST` words of each."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("aeioulmnrst"), random.integers(2, 9))) for _ in range(WORDS)])

    def drawn(median: float) -> int:
        return int(np.clip(random.lognormal(np.log(median), 0.6), 3, LONGEST))

    with path.open("w") as file:
        for number in range(count):
            lengths = {name: drawn(median) if number % EVERY else LONGEST for name, median in MEDIANS.items()}
            texts = {name: " ".join(words[random.integers(WORDS, size=length)]) for name, length in lengths.items()}
            file.write(json.dumps(texts) + "\n")


def alone(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `work` tells, its seconds and its peak memory, in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, work).result()


def measured(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `work` takes of this process, all that it had before included, and of the largest of its children."""
    began = time.perf_counter()
    told = work()
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return {
        **told,
        "seconds": seconds,
        "peak_gib": int(status["VmHWM"].split()[0]) / 2**20,
        "children_peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }


@dataclass(frozen=True)
class Narrow:
    """Source of a random model of width 32 that reads with SmolLM2's tokenizer and template."""

    def open(self) -> "Model":
        """Raises ModelError where SmolLM2's files are not installed."""
        from jaxalign.models.model import split
        from jaxalign.models.pretrained import SmolLM2
        from jaxalign.models.random_llama import RandomLlama, drawn

        chat = SmolLM2().open().chat
        config = RandomLlama(context=4096).config(chat.vocab)
        return split(config, chat, "random llama", drawn(config, 0))


def recorded(place: pathlib.Path, steps: int) -> "Recorded":
    """Of the pairs that are written, as many as so many steps take."""
    from jaxalign.data.comparisons.pairs import Pairs
    from jaxalign.data.tables.file import File
    from jaxalign.feedback.recorded import Recorded

    return Recorded(
        Pairs(File(str(place / "pairs.jsonl"))),
        pairs_per_iteration=steps * TRAINED,
        max_prompt_tokens=PROMPT,
        max_tokens=ANSWER,
        long_prompts="keep_end",
        long_answers="keep_start",
    )


def train(place: pathlib.Path, steps: int) -> dict[str, float]:
    """Tokenises the pairs, and takes so many steps on them."""
    from jaxalign.align import align
    from jaxalign.config.resolved import dump
    from jaxalign.experiment import Evaluation, Experiment
    from jaxalign.losses.dpo import DPO
    from jaxalign.session import Session
    from jaxalign.storage.record import Recorder
    from jaxalign.storage.rundir import open_run
    from jaxalign.training.optim import AdamW, WarmupLinear
    from jaxalign.training.step import Fit

    experiment = Experiment(
        model=Narrow(),
        feedback=recorded(place, steps),
        loss=DPO(beta=0.1),
        optimizer=AdamW(WarmupLinear(peak=3e-4)),
        fit=Fit(batch_size=TRAINED),
        iterations=1,
        swap_every=None,
        evaluation=Evaluation(evals=()),
    )
    with open_run(place / RUN, dump(experiment)) as run:
        began = time.perf_counter()
        session = Session(experiment, run, Recorder(run.path), lambda: False)
        opened = time.perf_counter()
        align(session)
        rows = [json.loads(line) for line in (run.path / "perf.jsonl").read_text().splitlines()]
    # the first step compiles
    taken = [row for row in rows if row["phase"] == "fit" and row["step"] > 0 and "perf/host_seconds" in row]
    spent = sum(row["perf/step_seconds"] for row in taken)
    return {
        "opening_s": opened - began,
        "pairs_per_s": len(taken) * TRAINED / spent,
        "waited": sum(row["perf/host_seconds"] for row in taken) / spent,
    }


def stored_in(place: pathlib.Path) -> pathlib.Path:
    """The store that the run has made."""
    (found,) = (path.parent for path in (place / RUN / "datasets").glob("pairs-*/store.json"))
    return found


def iterate(place: pathlib.Path) -> dict[str, float]:
    """Takes every pair once, in the order of a fit, and tells how many these were."""
    from jaxalign.data.ahead import ahead
    from jaxalign.data.comparisons.store import Store
    from jaxalign.data.order import GroupOrder

    store = Store(stored_in(place), "pairs")
    order = GroupOrder(len(store), BATCH, epochs=1, seed=0)
    with ahead(lambda index: store.take(order[index][order[index] >= 0]), range(len(order))) as batches:
        taken = sum(len(batch.weight) for batch in batches)
    return {"taken": float(taken)}
