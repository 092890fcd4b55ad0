"""The page on runs: well-formed, whole in itself, of the recorded numbers, and never undone by what runs say."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from made_reports import CERTIFICATES, PROMPTS, RATES, VOTES, answers, evals, made_run

from jaxalign.__main__ import main
from jaxalign.evaluate import Votes, votes_of
from jaxalign.reopen import Run
from jaxalign.report import page as pages
from jaxalign.report.account import read
from jaxalign.report.certificates import NONE, YET
from jaxalign.report.fronts import MARGINS
from jaxalign.report.page import page, visible
from jaxalign.report.samples import TOGETHER, samples_of
from jaxalign.storage.record import read_metrics, read_perf
from jaxalign.storage.rundir import RunDir
from jaxalign.types import Preferences, Rollouts

VOID = {"meta", "img", "br"}
HOSTILE = "</pre><script>alert(1)</script>\n<img src=x onerror=\"alert('2')\">&amp;{{ 7 * 7 }}\x00\x1b\u202e\ud800\r"


class Read(HTMLParser):
    """A page, taken apart: what is open where, and what each element says."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.values: list[float] = []
        self.rows: dict[str, list[float]] = {}
        self.said: dict[str, list[str]] = {}
        self.row = ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "data":
            self.values.append(float(dict(attrs)["value"] or ""))
            self.rows.setdefault(self.row, []).append(self.values[-1])
        if tag not in VOID:
            self.stack.append(tag)
            self.said.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert "svg" in self.stack, f"<{tag}/> closes itself in SVGs alone"

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, (tag, self.getpos())
        if tag == "tr":
            self.row = ""

    def handle_data(self, data: str) -> None:
        for tag in {*self.stack[-1:], *({"body"} & {*self.stack})}:
            self.said[tag][-1] += data
        if self.stack[-1:] == ["th"]:
            self.row = data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def made(arms: dict[str, list[Path]], figures: list[Path] | None = None) -> tuple[str, Read]:
    accounts = {name: [read(path.name, path) for path in paths] for name, paths in arms.items()}
    text = page(accounts, figures or [])
    return text, Read(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def alone(run) -> tuple[str, Read]:
    return made({"run": [run]})


def test_it_is_one_page_without_anything_from_elsewhere(run, alone):
    text, found = alone
    drawn = run.parent / "gap.svg"
    drawn.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    text, found = made({"run": [run]}, [drawn, run.parent / "gap.png"])
    labels = [each["aria-label"] for each in found.all("div") if each.get("role") == "region"]
    assert labels.count(pages.DRAWN["gap"]) == 1
    assert "Figure" not in labels
    assert text.startswith('<!DOCTYPE html>\n<html lang="en">') or text.lstrip().startswith("<!DOCTYPE html>")
    assert [tag for tag, _ in found.tags if tag in ("script", "link", "iframe", "object", "base", "form")] == []
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) == 4
    assert {each["href"] for each in found.all("a")} <= {f"#{each}" for each in ids}
    (image,) = found.all("img")
    kind, _, content = (image["src"] or "").partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content).decode() == drawn.read_text()
    assert image["alt"] == pages.DRAWN["gap"]
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not [each for name, each in attributes.items() if name != "src" and "://" in (each or "")]
    (style,) = found.said["style"]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(each["content"] for each in found.all("meta") if each.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_tables_and_charts_say_what_they_are(alone):
    _, found = alone
    assert all(each.get("scope") in ("col", "row") for each in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table")) > 5
    assert all(found.said["caption"])
    regions = [each for each in found.all("div") if each.get("class") == "wide"]
    assert len(regions) == len(found.all("table"))
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions)
    shown = [each for each in found.all("svg") if not each.get("aria-hidden")]
    assert all(each["role"] == "img" for each in shown)
    (rates,) = (each["aria-label"] for each in shown if (each["aria-label"] or "").startswith("win_rate/vs_base "))
    assert rates == (
        "win_rate/vs_base against iterations: run from 0.5 at 0 to 0.7188 at 2, least 0.5, most 0.7188. "
        "The anchor moves at 1"
    )
    (margins,) = (each["aria-label"] for each in shown if (each["aria-label"] or "").startswith("rewards/margins "))
    assert "most 0, 2 not finite and left out. " in (margins or "")
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == levels.count(1) == 1
    assert max(np.diff(levels)) == 1
    assert {"content": "width=device-width, initial-scale=1", "name": "viewport"} in found.all("meta")


def test_its_numbers_are_those_of_the_run(run, alone):
    text, found = alone
    summary = json.loads((run / "summary.json").read_text())
    measured = summary["evals"]
    rate = [measured[f"win_rate/vs_base{end}"] for end in ("", "_ci95_low", "_ci95_high")]
    assert found.rows["win_rate/vs_base"][:3] == rate
    assert found.rows["drift/kl_from_base_nats"] == [measured["drift/kl_from_base_nats"]]
    matrix = summary["win_rates"]
    for name, row in zip(matrix["policies"], matrix["row_beats_column"], strict=True):
        assert found.rows[name] == row
    assert summary["seconds"] in found.values
    assert summary["peak_memory_gib"] in found.values
    assert pytest.approx(summary["seconds"] * 4 / 3600) in found.values, "four devices compute"
    assert "hours of single devices (TPU v5)" in text
    assert found.rows["fit"][0] == sum(line.get("perf/step_seconds", 0.0) for line in read_perf(run))
    for line in read_metrics(run):
        if line["iteration"] == 1:
            assert {value for name, value in line.items() if "/" in name and value != "nan"} <= {
                *found.values,
                *CERTIFICATES.values(),
            }
    for index in range(3):
        assert {votes[index, 0, 0] for votes in (VOTES, VOTES**2, VOTES**3)} <= {*found.values}
    assert VOTES[3, 0, 0] not in found.values
    said = found.said["body"][0]
    assert all(prompt in said for prompt in PROMPTS[:3])
    assert "First launched on 2026-11-29 with jaxalign 1.2.3." in said
    assert "train.jsonl" in said
    assert "abababababab" in said
    assert "2 not finite, left out" in said


def test_nothing_of_it_needs_a_device(run, monkeypatch):
    def none(*_: object) -> None:
        raise AssertionError("asks for a device")

    monkeypatch.setattr(Run, "machine", none)
    for name in ("devices", "local_devices", "device_count", "device_put", "jit"):
        monkeypatch.setattr(jax, name, none)
    made({"run": [run]})


def test_what_runs_say_is_shown_and_does_nothing(tmp_path):
    name = "<b>&\"'"
    path = made_run(tmp_path / name, prompts=(HOSTILE,) * 3, base=HOSTILE, last=HOSTILE * 2, place=HOSTILE)
    text, found = made({name: [path]})
    text.encode("utf-8")
    assert not {"script", "img", "b"} & {tag for tag, _ in found.tags}
    shown = [each.removeprefix("\n") for each in found.said["pre"]]
    assert shown == [visible(HOSTILE), visible(HOSTILE), visible(HOSTILE * 2)] * 3
    assert "{{ 7 * 7 }}␀␛��␍" in shown[0]
    assert found.said["h1"] == [name]
    assert [each.get("dir") for each in found.all("pre")] == ["auto"] * 9


def test_seeds_and_methods_are_laid_side_by_side(run, tmp_path):
    other = [
        made_run(tmp_path / f"seed-{seed}", "--seed", str(seed), "--loss.eta", "0.5", shift=shift)
        for seed, shift in ((1, 0.125), (2, 0.0625))
    ]
    text, found = made({"run": [run], "other": other})
    said = found.said["body"][0]
    assert found.said["h1"] == ["run, other"]
    assert [each["id"] for each in found.all("section")] == [
        *("runs", "comparison", "run-1", "run-2", "run-3", "curves")
    ]
    rows = [re.sub("<[^>]*>", "|", row) for row in re.findall("<tr>.*?</tr>", text)]
    middle = RATES[2] + (0.125 + 0.0625) / 2
    assert any(
        re.match(rf"\|+win_rate/vs_base\|+{middle:.4g}\|+{middle - 0.03125:.4g}\|+{middle + 0.03125:.4g}", row)
        for row in rows
    )
    assert any(re.match(rf"\|+other\|+{middle:.3g} \[", row) for row in rows)
    assert any(re.match(r"\|+loss.eta\|+0.2\|+0.5\|+0.5\|", row) for row in rows)
    assert not any("loss.tau" in row and "0.05||0.05" in row for row in rows)
    assert "Last policies of 2 seeds of other" in said
    (chart,) = (
        each["aria-label"] for each in found.all("svg") if "win_rate/vs_base " in (each.get("aria-label") or "")
    )
    assert all(f"{name} from 0.5 at 0" in (chart or "") for name in ("run", "seed-1", "seed-2"))
    assert len([each for each in found.all("svg") if each.get("aria-hidden")]) == 3


@pytest.mark.parametrize(("finished", "status"), [(0, "0 of 2"), (1, "1 of 2")])
def test_a_run_that_is_not_finished_is_told_so_far(tmp_path, finished, status):
    _, found = made({"run": [made_run(tmp_path / "run", finished=finished)]})
    said = found.said["body"][0]
    assert f"Not finished: {status} iterations are complete." in said
    assert found.rows["win_rate/vs_base"][0] == RATES[finished]
    assert "No policies were compared" in said
    assert ("No answers of a trained policy" in said) == (finished == 0)
    assert "The judge prefers" not in said
    assert (YET in said) == (finished == 0)
    assert NONE not in said


def test_a_run_that_has_not_begun_is_told_so(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((run / "config.json").read_bytes())
    _, found = made({"run": [tmp_path / "run"]})
    said = found.said["body"][0]
    for sentence in (
        "Not begun: 0 of 2",
        "Nothing is measured yet",
        "No metrics are recorded",
        "No times were recorded",
    ):
        assert sentence in said


def without_copies(run: Path) -> Path:
    """As in a bucket, or where both were lost."""
    for copy in run.rglob(".*.copy"):
        copy.unlink()
    return run


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", b'{"type": "jaxalign.experiment:Experiment"}'),
        ("inputs.json", b"{}"),
        ("inputs.json", None),
        ("metrics.jsonl", b"{}\n"),
        ("metrics.jsonl", b'{"iteration": 0, "phase": "fit", "step": "x"}\n'),
        ("metrics.jsonl", b'{"iteration": 0, "phase": "fit", "step": 0, "loss": "much"}\n'),
        ("perf.jsonl", b"\xff\n"),
        ("summary.json", b'{"evals": {"a": "b"}}'),
        ("summary.json", b"[]"),
        ("summary.json", b'{"evals": {}, "win_rates": {"policies": ["a"], "row_beats_column": [[1, 2]]}}'),
        ("0001/heldout/content.json", b"{}"),
        ("0001/votes/arrays.safetensors", b""),
        ("0001/votes", None),
        ("metrics.jsonl", None),
    ],
)
def test_a_part_that_is_missing_or_damaged_is_named_and_takes_no_other_with_it(run, tmp_path, file, content):
    copied = without_copies(made_run(tmp_path / "run"))
    place = copied / file
    if content is not None:
        place.write_bytes(content)
    elif place.is_dir():
        for each in place.iterdir():
            each.unlink()
    else:
        place.unlink()
    _, found = made({"run": [copied]})
    said = found.said["body"][0]
    problems = [attributes for tag, attributes in found.tags if tag == "p" and attributes.get("class") == "problem"]
    # what is left out of perf.jsonl is told on stderr
    if (file, content) not in [("0001/votes", None), ("metrics.jsonl", None), ("perf.jsonl", b"\xff\n")]:
        assert problems
        assert str(place) in said
    assert file == "metrics.jsonl" or "rewards/margins" in said
    assert file == "summary.json" or evals(2)["win_rate/vs_base"] in found.values
    assert ("a last" in said) == (content != b"{" and file != "0001/heldout/content.json")
    assert ("The judge prefers" in said) == ("a last" in said and not file.startswith("0001/votes"))


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: of relative luminances."""

    def luminance(colour: str) -> float:
        shares = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_from_their_ground_in_light_and_dark():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    css = (Path(pages.__file__).parent / "page.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S))
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        grounds = [scheme.pop("paper"), scheme.pop("panel")]
        low = {(name, ground): contrast(each, ground) for name, each in scheme.items() for ground in grounds}
        line = [low.pop(("line", ground)) for ground in grounds]
        assert min(line) >= 3  # lines of tables
        assert min(low.values()) >= 4.5, min(low.items(), key=lambda each: each[1])
    used = set(re.findall(r"(?:color|background|fill|stroke): (?!none|var)([^;]+);", css))
    assert used == {"#ffffff"}  # under figures, which are drawn on white


def test_votes_are_those_of_the_last_policy_against_the_base():
    """Of three policies with two answers each, the base's lying first."""
    strength = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    prefer = 1 / (1 + np.exp(strength[None, None, :] - strength[None, :, None]))
    votes = votes_of(Preferences(("a", "b"), (0.5, 0.5), prefer, np.stack([prefer, prefer.swapaxes(1, 2)], 1), None), 2)
    assert votes.prefer.shape == (1, 2, 2)
    np.testing.assert_allclose(votes.prefer[0], 1 / (1 + np.exp(-np.array([[4.0, 3.0], [5.0, 4.0]]))))
    np.testing.assert_allclose(votes.by_annotator[:, 0], votes.prefer)
    np.testing.assert_allclose(votes.by_annotator[:, 1], 1 - votes.prefer)


@pytest.mark.parametrize(("objectives", "figures"), [(2, ["pareto"]), (4, [])])
def test_runs_that_measure_nothing_but_their_objectives_have_a_front(objectives, figures, tmp_path, capsys):
    """Of two or three of them; of four nobody draws one, and the page tells the rest."""
    pytest.importorskip("matplotlib")

    def margins(number: int, shift: float) -> dict[str, float]:
        return {f"{MARGINS}{each}": number * (1.0 + shift * (-1) ** each) for each in range(objectives)}

    runs = [made_run(tmp_path / name, shift=by, measured=margins) for name, by in (("one", 0.25), ("two", -0.5))]
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "out")]) == 0
    assert {each.stem for each in (tmp_path / "out").iterdir()} == {"index", *figures}
    said = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert len(Read(said).all("img")) == len(figures)
    assert ("there is no figure" in said) == (not figures)
    assert ("there is no figure" in capsys.readouterr().err) == (not figures)


def test_the_command_writes_it_beside_the_figures(run, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    assert main(["report", str(run)]) == 0
    assert {each.name for each in (run / "report").iterdir()} == {"index.html", "win_rate.png", "win_rate.svg"}
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report" / "index.html")
    text = (run / "report" / "index.html").read_text(encoding="utf-8")
    assert len(Read(text).all("img")) == 1
    assert main(["report", str(run), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "index.html").read_text(encoding="utf-8") == text
    capsys.readouterr()
    other = made_run(tmp_path / "other", shift=0.0625)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(run), str(other)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"win_rate/vs_base.*\n.*above run", shown)
    assert re.search(r"\n  other +0.781 +\+0.0625 ", shown)
    assert "other" in (tmp_path / "runs" / "report" / "win_rate.svg").read_text()
    (without_copies(other) / "metrics.jsonl").write_bytes(b"{}\n")
    assert main(["report", str(other)]) == 0
    assert "line 1 is damaged" in capsys.readouterr().err
    assert "Not drawn: " in (other / "report" / "index.html").read_text(encoding="utf-8")
    assert main(["report", str(run), str(tmp_path / "absent")]) == 2
    assert "is no run directory" in capsys.readouterr().err


class Listed(RunDir):
    """As much of a run as samples need, whose held-out answers are all that there are."""

    def __init__(self) -> None:
        super().__init__(epath.Path("nowhere"), {}, None)

    def finished(self) -> int:
        return 1

    def has(self, home: int | str, name: str) -> bool:
        return name == "heldout"

    def load(self, home: int | str, name: str, kind: type) -> Rollouts:
        law = np.array([[0.125, 0.875]] if home == 0 else [[0.75, 0.25]])
        listed = answers(("one", "other"), ("first",))
        return dataclasses.replace(listed, weights=np.float32(law), logps=np.log(law)[..., None])


def test_of_answers_that_are_listed_the_likeliest_are_shown_and_their_votes():
    (sample,) = samples_of(Listed(), Votes(("one", "two"), VOTES[:1], np.stack([VOTES[:1], 1 - VOTES[:1]], 1)))
    (side,) = sample.sides
    assert (side.heading, side.base_text, side.last_text) == ("Likeliest answers", "one", "other")
    assert dict(side.votes) == pytest.approx(
        {TOGETHER: VOTES[0, 1, 0], "one": VOTES[0, 1, 0], "two": 1 - VOTES[0, 1, 0]}
    )
