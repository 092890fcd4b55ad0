"""Trials of what happens to a run: a small language model's, to which something is done, and what becomes of it.

A trial ends right in one of three ways. *Equal*: the same command ends with the bits of the run to which nothing was
done. *Told*: so it does, and something was said of it. *Mended*: what is damaged is named, what the message says to do
is done, and then it is equal. All else is a fault of the product: another result, a refusal that
nothing mends, an error that is no JaxalignError, a fit that begins afresh where it had steps.
"""

import contextlib
import io
import json
import pathlib
import re
import shutil
import warnings
from collections.abc import Iterator

import jax
import numpy as np
from made_runs import Patience, content, policy, run_here, tiny_lm

from jaxalign.errors import Interrupted, JaxalignError
from jaxalign.experiment import Experiment
from jaxalign.storage import artifact
from jaxalign.storage.record import read_metrics, read_perf, read_summary
from jaxalign.storage.rundir import read_run

OPTIONS = (
    *("--model.layers", "1", "--model.width", "16", "--model.mlp", "32", "--model.heads", "2", "--model.kv_heads", "1"),
    *("--feedback.prompts_per_iteration", "4", "--feedback.rollout.samples", "2", "--placement.rollout_rows", "4"),
    *("--feedback.rollout.max_tokens", "4", "--evaluation.rollout.max_tokens", "4", "--evaluation.prompts.limit", "4"),
    *("--fit.batch_size", "4", "--fit.epochs", "2", "--fit.keep_checkpoints", "2"),
)
"""Of `configs/tiny_lm.py`, on top of `made_runs.SMALL`: two iterations of a few steps, of which two checkpoints are
kept; answers come in two parts."""
REMEDY = re.compile(r"^(?P<what>/[^:\n]+?)(: .*)?[;,] ?(the policy is gone; )?delete (this directory|it)", re.M)
ATTEMPTS = 4
"""Launches of one trial: one remedy mends what is damaged in one place, which two launches find at most."""


def tried() -> Experiment:
    """The run of all trials."""
    return tiny_lm(*OPTIONS)


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keeps what is printed off the terminal, and yields it."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield said


class Whole:
    """A run to which nothing is done, at `home`/whole, and what another one is compared with."""

    def __init__(self, home: pathlib.Path):
        self.path = home / "whole"
        with quiet():
            run_here(tried(), self.path)
        self.content, self.policies, self.summary = content(self.path), _policies(self.path), _summary(self.path)

    def differences(self, run: pathlib.Path) -> list[str]:
        """What is not as in this one. Raises the JaxalignError of what cannot be read."""
        found = content(run)
        names = [
            name for name in sorted(found.keys() | self.content.keys()) if found.get(name) != self.content.get(name)
        ]
        for name in names:  # what is damaged says so when it is read
            home = run / pathlib.Path(name).parent
            if artifact.committed(home):
                read_artifact(home, str(home.relative_to(run)))
        policies = _policies(run)
        names += [f"policy {n}" for n in sorted({*policies} ^ {*self.policies})]
        for number in policies.keys() & self.policies.keys():
            if not all(map(_equal, policies[number], self.policies[number])):
                names.append(f"policy {number}")
        return names + ([] if _summary(run) == self.summary else ["summary.json"])


def read_artifact(directory: pathlib.Path, name: str) -> None:
    """Raises CheckpointError where a committed artifact is damaged; of whatever kind it is."""
    kind = json.loads((directory / artifact.MARKER).read_bytes()).get("kind")
    stand_in = type(str(kind), (), {})
    try:
        artifact.read(artifact.epath.Path(directory), name, stand_in)
    except JaxalignError as error:
        if "written by another version" not in str(error):  # that it is no stand-in comes after all checks
            raise


def halves(whole: Whole, home: pathlib.Path, number: int) -> list[pathlib.Path]:
    """Runs that were stopped at so many moments, evenly over all, in directories of their own."""
    found, questions = [], 1
    while True:
        run = home / f"half-{questions}"
        try:
            with quiet():
                run_here(tried(), run, Patience(questions))
            break
        except Interrupted:
            found.append(run)
            questions += 4
    kept = {found[round(index * (len(found) - 1) / (number - 1))] for index in range(number)}
    for run in found:
        if run not in kept:
            shutil.rmtree(run)
    return sorted(kept)


def readers(run: pathlib.Path) -> list[str]:
    """What readers say of a damaged run: each reads, or refuses by name. Raises what is no JaxalignError."""
    said = []
    there = [lambda: read_metrics(run), lambda: read_perf(run), lambda: read_run(run), lambda: read_summary(run)]
    for read in there if (run / "summary.json").exists() else there[:3]:
        try:
            read()
        except JaxalignError as error:
            said.append(str(error))
    return said


class Trial:
    """What becomes of one run under the same command, again and again, and its remedies."""

    def __init__(self, whole: Whole, run: pathlib.Path, damaged: str = ""):
        self.whole, self.run, self.damaged = whole, run, damaged
        self.said: list[str] = []
        self.begun = _begun(run)

    def outcome(self) -> str:
        """`equal`, `told` (equal, and something was said of it), `mended`; or `FAULT: …`."""
        heard = ""
        for _ in range(ATTEMPTS):
            try:
                with quiet() as printed:
                    run_here(tried(), self.run)
                    differ = self.whole.differences(self.run)
                heard += printed.getvalue()
            except JaxalignError as error:
                self.said.append(str(error))
                if not self._mend(str(error)):
                    return f"FAULT: no remedy in {str(error)!r}"
                continue
            except Exception as error:  # what is no JaxalignError is a fault
                return f"FAULT: {type(error).__name__}: {error}"
            if differ:
                return f"FAULT: other than the whole run: {differ[:5]}"
            if self._afresh():
                return "FAULT: a fit began afresh where it had steps"
            if self.said and self.damaged and not any(self._names(text) for text in self.said):
                return f"FAULT: what is damaged is not named: {self.said}"
            return "mended" if self.said else "told" if _of_damage(heard) else "equal"
        return f"FAULT: {ATTEMPTS} launches and remedies did not get to the end: {self.said}"

    def _names(self, text: str) -> bool:
        """Whether a message names the damaged file, or a directory that it lies in."""
        parts = pathlib.PurePath(self.damaged).parts
        return any(str(self.run.joinpath(*parts[:depth])) in text for depth in range(1, len(parts) + 1))

    def _mend(self, text: str) -> bool:
        found = REMEDY.search(text)
        if found is None:
            return "run again" in text or "same command" in text or "Everything saved before is intact" in text
        place = pathlib.Path(found["what"])
        place = place.parent if place.is_file() or place.name in _FILES else place
        if not place.is_dir() or self.run not in place.parents:
            return False
        shutil.rmtree(place)
        return True

    def _afresh(self) -> bool:
        """Whether a fit took its first step again though checkpoints of it lay there, and nobody deleted them."""
        told = any("begin this fit again" in text for text in self.said)
        return not told and any(_first_steps(self.run, fit) > count for fit, count in self.begun.items())


_FILES = (artifact.ARRAYS, artifact.CONTENT, artifact.MARKER)


def _of_damage(text: str) -> bool:
    return bool(re.search(r"damaged|made again|left out|restored", text))


def _begun(run: pathlib.Path) -> dict[int, int]:
    """How often each fit of which checkpoints are there has taken its first step."""
    fits = [path.parent.parent.name for path in run.glob("*/fit/0*") if (path / "commit_success.txt").exists()]
    return {int(name): _first_steps(run, int(name)) for name in fits}


def _first_steps(run: pathlib.Path, iteration: int) -> int:
    lines = (run / "perf.jsonl").read_bytes() if (run / "perf.jsonl").exists() else b""
    return lines.count(b'{"iteration": %d, "phase": "fit", "step": 0,' % iteration)


def _policies(run: pathlib.Path) -> dict[int, list[np.ndarray]]:
    return {n: [np.asarray(leaf) for leaf in jax.tree.leaves(policy(run, n))] for n in read_run(run).policies()}


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def _summary(run: pathlib.Path) -> dict[str, object]:
    summary = read_summary(run)
    return {name: value for name, value in summary.items() if name not in ("seconds", "peak_memory_gib")}
