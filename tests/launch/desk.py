"""Where the scripts of tpu/ are tried: a copy of them, with nothing on the PATH that could reach a cloud."""

import json
import pathlib
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
LIBRARY = [*sorted((ROOT / "tpu/lib").glob("*.sh")), ROOT / "tpu/legacy/pod.sh"]
SCRIPTS = sorted({*(ROOT / "tpu").glob("*.sh"), *(ROOT / "tpu/legacy").glob("*.sh")} - {*LIBRARY})
VERBS = [str(path.relative_to(ROOT / "tpu").with_suffix("")) for path in SCRIPTS if path.stem != "host"]
TOOLS = """awk basename bash cat dirname env grep gzip head hostname mkdir mv nohup rm sed setsid sleep tail tar tr"""
CONFIG = "my configs/tiny lm.py"
POD = ["--topology", "v5p:2x2x2", "--zone", "us-east5-a", "--poll", "0"]
RUN = [CONFIG, *POD, "--workdir", "gs://bucket/run"]
HOSTS = 2  # of v5p:2x2x2
CLUSTER = ["--cluster", "my-cluster", "--zone", "us-east5-a", "--topology", "v5p:4x4x4", "--slices", "2"]
GKE = [CONFIG, *CLUSTER, "--image", "registry/jaxalign:1", "--workdir", "gs://b/run"]


def columns(path: str) -> list[list[str]]:
    """The rows of a table of tpu/."""
    lines = (ROOT / "tpu" / path).read_text().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


TOPOLOGIES = {row[0]: row[1:] for row in columns("accelerators.tsv")}


class Desk:
    """A copy of the repository's outside, and a PATH with the tools that the scripts may use and nothing else."""

    def __init__(self, place: pathlib.Path):
        self.root = place / "my repository"
        self.bin = place / "bin"
        shutil.copytree(ROOT / "tpu", self.root / "tpu")
        (self.root / "configs").symlink_to(ROOT / "configs")
        for name in ("pyproject.toml", "README.md", "LICENSE", "jaxalign/__init__.py", CONFIG):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name}\n")
        (self.root / "constraints").mkdir()
        (self.root / "constraints/python3.11.txt").write_text("jax==0.10.2\nlibtpu==0.0.42.1\nnumpy==2.4.0\n")
        self.bin.mkdir()
        for tool in TOOLS.split():
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def fake(self, **answers: list[str | None]) -> None:
        """Puts gcloud, kubectl and xpk on the PATH."""
        code = (ROOT / "tests/launch/fake_gcloud.py").read_text()
        for name in ("gcloud", "kubectl", "xpk"):
            (self.bin / name).write_text(f"#!{sys.executable} -SE\n{code}")
            (self.bin / name).chmod(0o755)
        (self.bin / "answers.json").write_text(json.dumps(answers))

    def run(self, verb: str, *words: str, code: int = 0, answer: str = "") -> str:
        """Runs tpu/VERB.sh in the repository; gives what it printed, errors apart in `self.errors`."""
        ended = subprocess.run(
            [self.root / f"tpu/{verb}.sh", *words],
            cwd=self.root,
            env={"PATH": str(self.bin), "HOME": str(self.root.parent)},
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.errors = ended.stderr
        assert ended.returncode == code, f"exit code {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def printed(self, verb: str, *words: str) -> list[list[str]]:
        """The commands of a dry run, as words."""
        return [shlex.split(line) for line in self.run(verb, *words, "--dry-run").splitlines()]

    def calls(self) -> list[list[str]]:
        """How gcloud and the others were called, in order."""
        if not (self.bin / "calls.jsonl").exists():
            return []
        return [json.loads(line)["words"] for line in (self.bin / "calls.jsonl").read_text().splitlines()]

    def steps(self) -> list[str]:
        """The calls in a word each: list create delete describe scp, and what host.sh was told."""
        return [step(words) for words in self.calls()]


def step(words: list[str]) -> str:
    """A call of gcloud in a word."""
    remote = [word.split(" ")[2] for word in words if word.startswith("--command=bash host.sh")]
    return remote[0] if remote else words[4]


def states(*each: str) -> str:
    """What the hosts of a slice answer to `host.sh status`."""
    return "".join(f"jaxalign-host h{i} {state}\n" for i, state in enumerate(each))


def option(words: list[str], name: str) -> str:
    """Value of --name=VALUE."""
    (value,) = (word.removeprefix(f"--{name}=") for word in words if word.startswith(f"--{name}="))
    return value
