"""Asks libtpu, before it is loaded, to write down the schedule of every kernel it compiles."""

from schedule import ask_for_schedules

ask_for_schedules()
