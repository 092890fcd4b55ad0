"""The doctor on prompts, templates, preferences and the decoded row."""

import dataclasses
import io

import numpy as np
import pytest
from made_openings import by_name, opened
from made_rollouts import preferences, prompt, rollouts

from jaxalign.anchors.adaptive import Adaptive
from jaxalign.doctor import report
from jaxalign.doctor.checks.preferences import SampledPreferences
from jaxalign.doctor.checks.prompts import Prompts
from jaxalign.doctor.checks.template import Template
from jaxalign.doctor.examine import outcomes
from jaxalign.doctor.outcome import NotHere, Outcome
from jaxalign.doctor.row import tokens
from jaxalign.errors import DataError
from jaxalign.games.families import bradley_terry, three_action
from jaxalign.losses.inpo import INPO
from jaxalign.models.random_llama import TEMPLATE
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.pairs import BestWorst
from jaxalign.step_rules.extragradient import Extragradient
from jaxalign.step_rules.forward import Forward


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


def test_what_a_template_drops_or_spells_is_found(tmp_path):
    there = opened(tmp_path)
    asked = dataclasses.replace(prompt("Wet?", "t"), tools='[{"type": "function", "function": {"name": "weather"}}]')
    system = dataclasses.replace(
        asked, messages=({"role": "system", "content": "Be brief."}, *asked.messages), tools=""
    )
    found = Template().said(there.chat, [asked, system])
    assert found.measured == {"prompts_without_messages": 0, "prompts_without_tools": 1}
    users = TEMPLATE.replace(
        "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
    )
    told = dataclasses.replace(there.chat, template=users + "{{ tools | tojson if tools }}")
    assert Template().said(told, [asked, system]).measured == {
        "prompts_without_messages": 1,
        "prompts_without_tools": 0,
    }
    assert Template().spelled(told, [asked]).status == "ok"
    other = dataclasses.replace(there.chat, template=TEMPLATE.replace("<|im_end|>", "<|eot|>"))
    assert "<|eot|>, which the tokenizer spells" in Template().spelled(other, [asked]).fix


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


def test_lone_answers_are_as_undecided_as_their_pairs(tmp_path):
    there = opened(tmp_path)
    there.sampling.spec = dataclasses.replace(there.sampling.spec, pairing=EveryAnswer())
    there.rollouts = rollouts([["one", "two", "three"]])
    there.preferences = preferences([three_action().tolist()])
    found = by_name(SampledPreferences()(there))
    assert (found["pairs"].status, found["ties"].status) == ("ok", "ok")
    assert found["ties"].measured["share_of_groups"] == 0.0


def test_a_schedule_that_leads_away_is_warned_of_with_what_does_not(tmp_path):
    there = opened(tmp_path)

    def said(prefer, **changes):
        for name in ("pairs", "groups"):
            there.__dict__.pop(name, None)
        there.rollouts = rollouts([["one", "two", "three"]])
        there.preferences = preferences([prefer])
        there.experiment = dataclasses.replace(there.experiment, **changes)
        return by_name(SampledPreferences()(there))["schedule contracts"]

    rotating, ranked = three_action().tolist(), bradley_terry(np.array([2.0, 0.0, 1.0])).tolist()
    found = said(rotating, loss=INPO(eta=1 / 1.5, tau=0.1), swap_every=2)
    assert (found.status, found.measured["rotating"], found.measured["swap_every"]) == ("warning", 1.0, "2")
    assert found.measured["contraction"] == pytest.approx(1.072, abs=1e-3)
    assert found.fix.endswith("swap_every 5 would contract on these answers")
    assert said(rotating, swap_every=5).status == "ok"
    # Linearised at the policy, a round would seem to expand here too.
    assert said(ranked, loss=INPO(eta=0.1, tau=0.02), swap_every=2).status == "ok"
    found = said(rotating, loss=INPO(eta=0.1, tau=0.02), swap_every=None)
    assert (found.status, found.measured["expanding"]) == ("warning", 1.0)
    assert "loss.eta 0.4" in found.fix
    found = said(rotating, loss=INPO(eta=1 / 1.5, tau=0.1), swap_every=Adaptive())
    assert (found.status, found.measured["swap_every"]) == ("ok", "Adaptive(…)")
    found = said(rotating, swap_every=2, step_rule=Extragradient())
    assert (found.status, "steps of Extragradient look ahead" in found.fix) == ("skipped", True)
    feedback = dataclasses.replace(there.experiment.feedback, pairing=BestWorst())
    found = said(rotating, swap_every=2, feedback=feedback, step_rule=Forward())
    assert found.status == "skipped"
    assert "solves another game" in found.fix
