"""What is run is what was printed; a preempted, interrupted or failed run gets what it needs."""

import tarfile

import pytest
from desk import CONFIG, HOSTS, POD, RUN, option, states, step


def test_what_is_run_is_what_was_printed(desk):
    words = [*RUN, "--slices", "2", "--loss.eta", "0.05", "--model.path", "my models/x"]
    printed = desk.printed("legacy/launch", *words)
    done = states(*["done"] * HOSTS)
    desk.fake(list=["", "ACTIVE\n", "ACTIVE\n"], status=[done, done], log=["step 1\nstep 2\n"])
    out = desk.run("legacy/launch", *words)
    assert desk.calls() == [words for words in printed if words[0] == "gcloud"]
    assert out == "step 1\nstep 2\n"
    with tarfile.open(desk.root / "build/tpu/jaxalign.tar.gz") as archive:
        assert {CONFIG, "pyproject.toml", "jaxalign/__init__.py"} <= set(archive.getnames())


def test_create_waits_for_the_queue(desk):
    waiting = ["", "ACCEPTED\n", "WAITING_FOR_RESOURCES\n", None, "PROVISIONING\n", "ACTIVE\n"]
    desk.fake(list=waiting)
    desk.run("legacy/create", *POD)
    assert desk.steps() == ["list", "create", "list", "list", "list", "list", "list"][: len(waiting) + 1]


def test_create_leaves_an_active_pod_alone(desk):
    desk.fake(list=["ACTIVE\n"])
    desk.run("legacy/create", *POD)
    assert desk.steps() == ["list"]


AGAIN = ["create", "list", "scp", "setup", "start"]


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_preempted_pod_is_requested_again_and_the_run_goes_on(desk, state):
    desk.fake(
        list=["ACTIVE\n", f"{state}\n", f"{state}\n", "", "ACTIVE\n", "ACTIVE\n"],
        status=[states("running", "running"), states("done", "done")],
        log=["step 1\n", "step 2\n"],
    )
    assert desk.run("legacy/watch", *RUN) == "step 1\nstep 2\n"
    assert desk.steps() == [
        *("list", "status", "log"),
        *("list", "list", "describe", "delete", "list", *AGAIN),
        *("list", "status", "log"),
    ]
    (delete,) = (words for words in desk.calls() if "delete" in words)
    assert {"--force", "--quiet"} <= set(delete)  # the nodes go too, and nobody is there to say yes
    starts = [option(words, "command") for words in desk.calls() if step(words) == "start"]
    assert starts == [option(desk.printed("legacy/run", *RUN)[0], "command")]


@pytest.mark.parametrize(
    ("state", "expected"), [("resume", ["start"]), ("lost", ["start"]), ("absent", ["scp", "setup", "start"])]
)
def test_an_interrupted_run_is_started_again(desk, state, expected):
    first = states(state, "failed 1" if state != "resume" else state)
    desk.fake(list=["ACTIVE\n"] * 2, status=[first, states("done", "done")], log=["a\nb\n", "c\n"])
    desk.run("legacy/watch", *RUN)
    assert desk.steps() == ["list", "status", "log", *expected, "list", "status", "log"]
    shown = [option(words, "command") for words in desk.calls() if step(words) == "log"]
    assert shown[1].endswith("log 1" if state == "absent" else "log 3")  # a replaced host has a new log


def test_hosts_that_lost_one_another_are_started_again_unless_one_failed(desk):
    desk.fake(list=["ACTIVE\n"] * 2, status=[states("orphaned", "orphaned"), states("done", "done")], log=[""] * 2)
    desk.run("legacy/watch", *RUN)
    assert desk.steps().count("start") == 1
    desk.fake(list=["ACTIVE\n"], status=[states("failed 137", "orphaned")], log=[""])
    desk.run("legacy/watch", *RUN, code=1)
    assert "h0 failed 137" in desk.errors


def test_every_line_of_the_log_is_shown_once(desk):
    running, done = states("running", "running"), states("done", "done")
    desk.fake(list=["ACTIVE\n"] * 4, status=[running] * 3 + [done], log=["a\n\nb\n", "", "c\n", "d\n"])
    assert desk.run("legacy/watch", *RUN) == "a\n\nb\nc\nd\n"
    asked = [option(words, "command").split()[-1] for words in desk.calls() if step(words) == "log"]
    assert asked == ["1", "4", "4", "5"]


def test_a_run_that_fails_by_itself_is_not_started_again(desk):
    desk.fake(list=["ACTIVE\n"], status=[states("failed 2", "failed 1")], log=["bad config\n"])
    assert "bad config" in desk.run("legacy/watch", *RUN, code=1)
    assert desk.steps() == ["list", "status", "log"]
    assert "h0 failed 2" in desk.errors


def test_hosts_that_wait_for_a_failed_one_are_stopped_once(desk):
    mixed = states("running", "failed 137")
    desk.fake(
        list=["ACTIVE\n"] * 4,
        status=[mixed, mixed, states("resume", "failed 137"), states("done", "done")],
        log=[""] * 4,
    )
    desk.run("legacy/watch", *RUN)
    assert desk.steps().count("stop") == 1
    assert desk.steps().count("start") == 1


def test_a_host_that_was_replaced_is_set_up_when_the_others_have_stopped(desk):
    each = [("running", "absent"), ("running", "absent"), ("resume", "absent"), ("done", "done")]
    desk.fake(list=["ACTIVE\n"] * 4, status=[states(*of) for of in each], log=[""] * 4)
    desk.run("legacy/watch", *RUN)
    look = ["list", "status", "log"]
    assert desk.steps() == [*look, "stop", *look, *look, "scp", "setup", "start", *look]


def test_a_new_host_that_lets_nobody_in_is_tried_again(desk):
    desk.fake(scp=[None, None, ""])
    desk.run("legacy/setup", CONFIG, *POD)
    assert desk.steps() == ["scp", "scp", "scp", "setup"]


def test_a_watcher_outlives_a_pod_that_goes_while_it_is_set_up(desk):
    desk.fake(
        list=["SUSPENDED\n", "", "ACTIVE\n", "ACTIVE\n", "ACTIVE\n"],
        scp=[None] * 3 + [""],
        status=[states("absent", "absent"), states("done", "done")],
        log=["", ""],
    )
    desk.run("legacy/watch", *RUN)
    assert desk.steps().count("create") == 1
    assert desk.steps().count("start") == 1


def test_a_network_that_fails_for_long_does_not_end_the_watch(desk):
    desk.fake(list=[None] * 10 + ["ACTIVE\n"], status=[states("done", "done")], log=[""])
    desk.run("legacy/watch", *RUN)
    assert desk.steps().count("list") == 11  # ten that failed, and the one that was answered


def test_a_mistake_shows_at_the_first_look(desk):
    desk.fake(list=[None] * 3)
    desk.run("legacy/create", *POD, code=1)
    assert "the network failed" in desk.errors


def test_a_host_that_has_finished_first_stops_nobody(desk):
    desk.fake(list=["ACTIVE\n"] * 2, status=[states("done", "running"), states("done", "done")], log=[""] * 2)
    desk.run("legacy/watch", *RUN)
    assert "stop" not in desk.steps()


def test_a_host_that_does_not_answer_is_asked_again(desk):
    desk.fake(list=["ACTIVE\n"] * 3, status=[states("running"), None, None, None, states("done", "done")], log=[""])
    desk.run("legacy/watch", *RUN)
    assert desk.steps().count("status") == 5


def test_restarts_are_counted(desk):
    desk.fake(list=["ACTIVE\n"] * 3, status=[states("resume", "resume")] * 3, log=[""] * 3)
    desk.run("legacy/watch", *RUN, "--max-restarts", "2", code=2)
    assert desk.steps().count("start") == 2
    assert "--max-restarts" in desk.errors


def test_a_pod_that_only_fails_is_given_up(desk):
    desk.fake(list=["", "FAILED\n"] * 3 + [""])
    desk.run("legacy/create", *POD, "--max-restarts", "2", code=2)
    assert desk.steps().count("create") == 3
    assert "--max-restarts" in desk.errors


@pytest.mark.parametrize(
    ("words", "answer", "deleted"), [([], "n\n", 0), ([], "", 0), ([], "y\n", 1), (["--yes"], "", 1)]
)
def test_teardown_asks(desk, words, answer, deleted):
    desk.fake()
    desk.run("legacy/teardown", *POD, *words, answer=answer, code=0 if deleted else 2)
    assert desk.steps() == ["delete"] * deleted
    assert ("v5p-16 in us-east5-a" in desk.errors) == (not words)
