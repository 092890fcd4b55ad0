"""What a run makes for itself to read, where several hosts share the disk that it lies on: made by one of them."""

from collections.abc import Callable
from typing import TypeVar

from jaxalign.errors import Interrupted
from jaxalign.hosts.group import Hosts

T = TypeVar("T")


def in_turn(hosts: Hosts, shared: bool, make: Callable[[], T]) -> T:
    """What `make` gives on this process. Where the disk is `shared`, process 0 comes first and leaves there what the
    others then find: file locks do not hold between the hosts of every file system.

    To be called by all processes. Raises Interrupted on all of them when one was asked to stop while it made.
    """
    found: list[T] = []
    for mine in (hosts.leader, not hosts.leader) if shared else (True,):
        stopped = None
        try:
            found += [make()] if mine else []
        except Interrupted as error:
            stopped = error
        # one that stopped alone would leave the others waiting for its words for ever
        if hosts.any(stopped is not None):
            raise stopped or Interrupted("stopped with another process of the run; the same command continues there")
    return found[0]
