"""Preference data of many sizes: tokenised into a store, then read by index through Grain, each in its own process.

Synthetic pairs with the lengths of short chats are written as JSON Lines, tokenised with SmolLM2's tokenizer and
template in parallel processes, and read once in a shuffled order, batch by batch, one ahead of the reader. Memory is
the largest resident set of a process (VmHWM), pages of mapped files included.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

HELP = "memory and speed of preference data, tokenised and read"

WORDS = 2000
BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many pairs."""
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[10_000, 100_000], metavar="N", help="sizes (default 10000 100000)"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that tokenise (default 2)")


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows: pairs, megabytes of the file and of the store, pairs/s and peak GiB of tokenising and of reading."""
    return [row(count, args.workers) for count in args.pairs]


def row(count: int, workers: int) -> dict[str, Any]:
    """One size."""
    with tempfile.TemporaryDirectory(prefix="jaxalign-bench-") as folder:
        place = pathlib.Path(folder)
        write(place / "pairs.jsonl", count)
        built, read = alone(build, place, workers), alone(iterate, place, workers)
        store = sum(file.stat().st_size for file in (place / "store").iterdir())
        return {
            "pairs": count,
            "file_mb": (place / "pairs.jsonl").stat().st_size / 1e6,
            "store_mb": store / 1e6,
            "tokenised_pairs_per_s": count / built["seconds"],
            "tokenising_peak_gib": built["peak_gib"],
            "read_pairs_per_s": count / read["seconds"],
            "reading_peak_gib": read["peak_gib"],
        }


def write(path: pathlib.Path, count: int) -> None:
    """Pairs of words with lengths as chats have them: log-normal, median 20 words a prompt and 40 an answer."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("aeioulmnrst"), random.integers(2, 9))) for _ in range(WORDS)])

    def text(median: float) -> str:
        return " ".join(words[random.integers(WORDS, size=int(np.clip(random.lognormal(np.log(median), 0.6), 3, 300)))])

    with path.open("w") as file:
        for _ in range(count):
            file.write(json.dumps({"prompt": text(20.0), "chosen": text(40.0), "rejected": text(40.0)}) + "\n")


def alone(work: Callable[[pathlib.Path, int], None], place: pathlib.Path, workers: int) -> dict[str, float]:
    """Seconds and peak memory of `work` in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, work, place, workers).result()


def measured(work: Callable[[pathlib.Path, int], None], place: pathlib.Path, workers: int) -> dict[str, float]:
    """What `work` takes of this process, all that it had before included."""
    began = time.perf_counter()
    work(place, workers)
    seconds = time.perf_counter() - began
    status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "peak_gib": int(status["VmHWM"].split()[0]) / 2**20}


def build(place: pathlib.Path, workers: int) -> None:
    """Tokenises the pairs."""
    from jaxalign.data.comparisons.pairs import Pairs
    from jaxalign.data.comparisons.store import stored
    from jaxalign.data.tables.file import File
    from jaxalign.models.pretrained import SmolLM2
    from jaxalign.progress import Progress
    from jaxalign.text.chat import Chat
    from jaxalign.text.pairs import Encode, Room

    chat = SmolLM2().open().chat
    assert isinstance(chat, Chat)
    source = Pairs(File(str(place / "pairs.jsonl")))

    def telling(total: int) -> Progress:
        return Progress("tokenising", total, "pairs")

    stored(place / "store", source, Encode(chat, Room(4096, 2048)), "pairs", telling, workers)


def iterate(place: pathlib.Path, workers: int) -> None:
    """Takes every pair once, in the order of a fit."""
    from jaxalign.data.ahead import ahead
    from jaxalign.data.comparisons.store import Store
    from jaxalign.data.order import GroupOrder

    store = Store(place / "store", "pairs")
    order = GroupOrder(len(store), BATCH, epochs=1, seed=0)
    with ahead(lambda index: store.take(order[index][order[index] >= 0]), range(len(order))) as batches:
        taken = sum(len(batch.weight) for batch in batches)
    assert taken == len(store)
