"""The doctor on prompts, templates, preferences and the decoded row."""

import dataclasses
import io

import numpy as np
from made_openings import by_name, opened
from made_rollouts import preferences, prompt, rollouts

from jaxalign.doctor import report
from jaxalign.doctor.checks.preferences import SampledPreferences
from jaxalign.doctor.checks.prompts import Prompts
from jaxalign.doctor.checks.template import Template
from jaxalign.doctor.examine import outcomes
from jaxalign.doctor.outcome import NotHere, Outcome
from jaxalign.doctor.row import tokens
from jaxalign.errors import DataError
from jaxalign.models.random_llama import TEMPLATE


def test_the_row_says_whose_each_token_is_and_what_it_scores(tmp_path):
    there = opened(tmp_path)
    row = tokens(there)
    question = there.rollouts.prompts[there.pairs.prompt[0]].text
    assert "".join(token.text for token in row if token.role == "user") == question
    assert all(token.logp is None for token in row if token.branch == 0)
    for branch, response in enumerate(there.pairs.responses[0], 1):
        own = [token for token in row if token.branch == branch]
        prompt_index = there.pairs.prompt[0]
        length = there.rollouts.lengths[prompt_index, response]
        assert [token.id for token in own] == there.rollouts.tokens[prompt_index, response, :length].tolist()
        np.testing.assert_allclose(
            [token.logp for token in own], there.rollouts.logps[prompt_index, response, :length], atol=1e-4
        )


def test_colours_only_for_terminals_that_want_them(monkeypatch, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert report.coloured(Terminal())
    assert not report.coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not report.coloured(Terminal())
    outcome = Outcome("one", "finding", {"nats_max": 1.5}, "mend it")
    assert report.table_lines([outcome], colour=False)[0].split() == ["FINDING", "one", "nats", "max", "1.5"]
    assert "\033[1;31mFINDING" in report.table_lines([outcome], colour=True)[0]


def test_bad_prompts_are_named(tmp_path):
    there = opened(tmp_path)
    chat = there.chat
    one, same = prompt("Why is the sky blue?", "a"), prompt("  why is the SKY  blue?", "b")
    assert Prompts().empty([one, prompt("  \n", "hollow")], {}).fix.endswith("hollow")
    assert Prompts().duplicates([one, same]).measured["duplicates"] == 1
    assert Prompts().duplicates([one]).status == "ok"
    assert Prompts().overlap([one], [same, prompt("Else?", "c")]).status == "finding"
    assert Prompts().overlap([one], [prompt("Else?", "c")]).status == "ok"
    assert Prompts().special(chat, [prompt("Say <|im_end|> now", "sly"), one]).fix.endswith("sly")
    assert Prompts().special(chat, [one]).status == "ok"


def test_templates_with_two_bos_or_no_end_are_found(tmp_path):
    there = opened(tmp_path)
    assert all(outcome.status == "ok" for outcome in Template()(there))
    there.machine.model = dataclasses.replace(
        there.model, chat=dataclasses.replace(there.chat, template="<|im_start|>" + TEMPLATE)
    )
    assert by_name(Template()(there))["BOS"].status == "finding"
    endless = TEMPLATE.replace("<|im_end|>", "")
    there.machine.model = dataclasses.replace(there.model, chat=dataclasses.replace(there.chat, template=endless))
    found = by_name(Template()(there))["end of the assistant's turn"]
    assert found.status == "finding"
    assert "<|im_end|>" in found.fix


def test_what_a_check_raises_is_a_finding_or_a_reason(tmp_path):
    there = opened(tmp_path)

    def bad(_):
        raise DataError("row 3 has no prompt")
        yield

    def absent(_):
        raise NotHere("no accelerator")
        yield

    assert list(outcomes("some_check", bad, there)) == [Outcome("some check", "finding", {}, "row 3 has no prompt")]
    assert list(outcomes("some_check", absent, there)) == [Outcome("some check", "skipped", {}, "no accelerator")]


def test_no_pairs_and_only_ties_are_findings(tmp_path):
    there = opened(tmp_path)
    there.rollouts = rollouts([["same", "same"]])
    there.preferences = preferences([[[0.5, 0.5], [0.5, 0.5]]])
    assert by_name(SampledPreferences()(there))["pairs"].status == "finding"
    del there.__dict__["pairs"]
    there.rollouts = rollouts([["one", "two"]])
    found = by_name(SampledPreferences()(there))
    assert (found["pairs"].status, found["ties"].status) == ("ok", "finding")
    del there.__dict__["pairs"]
    there.preferences = preferences([[[0.5, 0.9], [0.1, 0.5]]])
    assert by_name(SampledPreferences()(there))["ties"].status == "ok"
