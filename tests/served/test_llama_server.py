"""Against llama.cpp's own server and SmolLM2-135M-Instruct: samples, their log-probs, and a judge.

`make test-served` builds the server into an environment of its own and names its folder in SERVER_BIN. The weights are
those of the quickstart (Q4_1), as they are and made fp32 by llama.cpp: with the first the server multiplies by rounded
activations, with the second both sides compute in fp32 with the same numbers.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from made_models import ONE
from made_rollouts import prompt, rollouts

from jaxalign.contracts.scope import Site
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.pretrained import Pretrained, SmolLM2
from jaxalign.oracles.remote_judge import RemoteJudge
from jaxalign.rollouts.handover import RunCommand
from jaxalign.rollouts.sample import Sample
from jaxalign.rollouts.seam import checked
from jaxalign.rollouts.served import Served
from jaxalign.served.client import Client
from jaxalign.served.server import Server

pytestmark = pytest.mark.served

ASKED = tuple(
    prompt(text, f"p{index}")
    for index, text in enumerate(
        ("Why is the sky blue?", "Name three fruits.", "What is the capital of France?", "Tell me a joke about a cat.")
    )
)
BOUND = {"f32": 5e-4, "q4_1": 0.15}
"""Mean |difference|, nats a token: fp32 in another order through 30 layers (measured 1.2e-4); products with activations
rounded to 8 bits (measured 0.073)."""


def tool(name: str) -> str:
    folder = os.environ.get("SERVER_BIN")
    if not folder:
        pytest.skip("SERVER_BIN names no llama.cpp: run `make test-served`")
    return str(Path(folder) / name)


@contextlib.contextmanager
def serving(weights: Path) -> Iterator[str]:
    """The server's address, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [tool("llama-server"), "-m", str(weights), "--host", "127.0.0.1", "--port", str(port), "-c", "4096"]
    with subprocess.Popen(
        [*command, "-t", "2", "--cache-type-k", "f32", "--cache-type-v", "f32", "-fa", "off"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            for _ in range(240):
                assert process.poll() is None, f"llama-server ended with {process.returncode}"
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=["f32", "q4_1"])
def weights(request, tmp_path_factory) -> tuple[str, Path]:
    packaged = SmolLM2().open().source
    if request.param == "q4_1":
        return "q4_1", Path(packaged)
    made = tmp_path_factory.mktemp("weights") / "f32.gguf"
    command = [tool("llama-quantize"), "--allow-requantize", packaged, str(made), "F32"]
    subprocess.run(command, check=True, capture_output=True)
    return "f32", made


def test_log_probs_of_served_samples_are_our_own(weights, tmp_path, capsys):
    name, file = weights
    model = Pretrained(str(file)).open()
    untouched = RunCommand((sys.executable, "-c", "", "{directory}"))  # it serves the base, and the base is asked for
    with serving(file) as url:
        engine = Served(
            Server(url, "smollm2", str(tmp_path / "answers"), concurrency=2),
            str(tmp_path / "exports"),
            untouched,
            most_difference=BOUND[name],
        )
        roller = Sample(samples=2, max_tokens=48, engine=engine).on(model, ONE, rows=8)
        (share,) = checked(roller, model.load(), ASKED, np.arange(len(ASKED)), jax.random.key(0))
    found = share.rollouts
    torn = share.notes["retokenised"] > 0  # where a token is half a character, the server leaves its id out
    assert torn.mean() <= 0.25
    assert not share.notes["unreported"][~torn].any()
    assert len({text for texts in found.texts for text in texts}) == 8
    assert found.finished.any()
    apart = share.notes["logp_difference_nats"][~torn]
    with capsys.disabled():
        figures = {"weights": name, "mean": float(apart.mean()), "worst answer": float(apart.max())}
        print(f"\n|server - ours|, nats a token, {found.lengths[~torn].sum()} tokens: {json.dumps(figures)}")
    assert apart.mean() < BOUND[name]


def test_a_judge_is_read_by_its_label_log_probs(tmp_path):
    given = rollouts([["The sky is blue because air scatters blue light more than red.", "Bananas."]], ASKED[0].text)
    with serving(Path(SmolLM2().open().source)) as url:
        judge = RemoteJudge(Server(url, "smollm2", str(tmp_path), concurrency=2))
        with judge.open(Site(ONE, MeshShape().rules, None, 8)) as opened:
            found = opened(given, jax.random.key(0))
        with Client(judge.server) as client:
            assert len(client.answers) == 2
    notes = {name: float(values.sum()) for name, values in found.notes.items()}
    assert (notes["comparisons"], notes["failed"], notes["text_only"]) == (1, 0, 0)
    assert notes["unparsed"] < 2
    assert 0 < found.prefer[0, 0, 1] < 1
