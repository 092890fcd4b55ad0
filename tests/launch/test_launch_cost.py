"""Chips times hours times price."""

import json

import pytest


def test_cost_is_chips_times_hours_times_price(desk):
    words = ["--topology", "v5p:4x4x4", "--slices", "2"]
    # 2 slices x 64 chips x 12 h x 4.20 USD
    assert "\n6451.20 USD" in desk.run("cost", *words, "--hours", "12")
    assert "\n192.00 USD" in desk.run("cost", *words, "--hours", "1", "--spot", "--price", "1.5")
    assert "check the price" in desk.run("cost", *words, "--hours", "12")


def test_hours_come_from_the_plan(desk):
    plan = desk.root / "my plan.json"
    words = ["--topology", "v5p:4x4x4", "--price", "1", "--plan", "my plan.json"]
    plan.write_text(json.dumps({"train": {"step_seconds_estimate": 1.8}, "chip_hours_estimate": 640.0}, indent=1))
    assert "\n640.00 USD" in desk.run("cost", *words)
    assert "\n160.00 USD" in desk.run("cost", *words, "--steps", "5000")  # 5000 x 1.8 s = 2.5 h of 64 chips
    plan.write_text(json.dumps({"step_seconds_estimate": None, "chip_hours_estimate": None}))
    desk.run("cost", *words, code=2)
    assert "no chip_hours_estimate" in desk.errors
    desk.run("cost", *words, "--steps", "10", code=2)
    assert "no step_seconds_estimate" in desk.errors


def test_a_price_that_is_not_in_the_table_is_asked_for(desk):
    words = ["--topology", "tpu7x:4x4x4", "--hours", "1"]
    desk.run("cost", *words, code=2)
    assert "on demand price of tpu7x" in desk.errors
    assert "\n128.00 USD" in desk.run("cost", *words, "--price", "2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--hours", "1", "--spot"], "spot price of v6e"),
        (["--hours", "soon"], "--hours is a number"),
        (["--hours", "1", "--price", "cheap"], "--price is a number"),
        ([], "--plan is missing"),
        (["--plan", "none.json"], "no such plan"),
    ],
)
def test_a_cost_that_cannot_be_known_is_not_given(desk, words, said):
    assert "USD" not in desk.run("cost", "--topology", "v6e:4x4", *words, code=2)
    assert said in desk.errors
