"""A coverage-guided fuzzer of the readers (`readers.py`), by atheris: `python fuzz.py all SECONDS FOLDER [NAME…]`.

Each reader has a process of its own, which libFuzzer drives: inputs that reach new code are kept in FOLDER/NAME/corpus,
where the next call begins. An input takes at most 20 s, and the process may grow by 1 GiB. What goes wrong is left as
FOLDER/NAME/crash-… (timeout-…, oom-…), which `python fuzz.py NAME FOLDER FILE` tries alone. A line of JSON a reader.
"""

import json
import os
import pathlib
import random
import re
import resource
import subprocess
import sys
import time

GROWTH_MIB = 1024
SECONDS = 20
LONGEST = 1 << 16
"""Bytes of an input: no seed is longer but of the files with a model's parameters, which bring their own limit."""
MOST = 5
"""Findings of a reader after which it is left alone."""


def one(name: str, home: pathlib.Path, options: list[str]) -> None:
    """Fuzzes one reader in this process, until libFuzzer ends it."""
    import atheris

    os.environ["JAX_PLATFORMS"] = "cpu"
    with atheris.instrument_imports(include=["jaxalign"]):
        import readers
    reader = readers.READERS[name]
    place, corpus = home / "place", home / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    place.mkdir(exist_ok=True)
    longest = LONGEST
    for number, seed in enumerate(reader.seeds(place)):
        (corpus / f"seed-{number}").write_bytes(seed)
        reader.tried(place, seed)
        longest = max(longest, 2 * len(seed))

    def mutate(content: bytes, most: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if reader.json and dice.random() < 0.6 and (made := readers.reshaped(content, dice)) is not None:
            return made[:most]
        return atheris.Mutate(content, most)

    def try_one(content: bytes) -> None:
        reader.tried(place, content)

    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    limits = (f"-rss_limit_mb={held + GROWTH_MIB}", f"-timeout={SECONDS}", f"-max_len={longest}")
    files = options if options and not options[0].startswith("-") else [str(corpus)]
    flags = [option for option in options if option.startswith("-")]
    sys.argv = [sys.argv[0], *files, *limits, f"-artifact_prefix={home}/", "-print_final_stats=1", *flags]
    print(f"held before: {held} MiB", file=sys.stderr, flush=True)
    atheris.Setup(sys.argv, try_one, custom_mutator=mutate)
    atheris.Fuzz()


def fuzzed(name: str, home: pathlib.Path, seconds: int) -> dict[str, object]:
    """So many seconds of one reader, in as many processes as it has findings, and one more."""
    began, used, tried, peak, findings, covered = time.monotonic(), 0.0, 0, 0, 0, 0
    home.mkdir(parents=True, exist_ok=True)
    while (left := int(seconds - (time.monotonic() - began))) > 0 and findings < MOST:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, __file__, name, str(home.parent), f"-max_total_time={left}"]
        with (home / "log").open("wb") as log:
            code = subprocess.run(command, stdout=log, stderr=log).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = (home / "log").read_text(errors="replace")
        used += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        units = re.search(r"stat::number_of_executed_units:\s*(\d+)", said)
        rss, held = re.search(r"stat::peak_rss_mb:\s*(\d+)", said), re.search(r"held before: (\d+)", said)
        tried += int(units[1]) if units else 0
        peak = max(peak, int(rss[1]) - int(held[1]) if rss and held else 0)
        covered = max([covered, *map(int, re.findall(r"cov: (\d+)", said))])
        if code:
            findings += 1
            (home / "log").rename(home / f"log-{time.time_ns()}")
    return {
        "reader": name,
        "cpu_seconds": round(used),
        "inputs": tried,
        "places_of_code": covered,
        "kept": len(list((home / "corpus").glob("*"))),
        "grown_mib": peak,
        "findings": findings,
    }


def main(what: str, *rest: str) -> int:
    if what != "all":
        home = pathlib.Path(rest[0]).resolve() / what
        one(what, home, list(rest[1:]))
        return 0
    seconds, folder, *names = rest
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    import readers

    found = 0
    for name in names or readers.READERS:
        told = fuzzed(name, pathlib.Path(folder).resolve() / name, int(seconds))
        found += int(str(told["findings"]))
        print(json.dumps(told), flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
