"""Elements made ahead: in order, no further ahead than asked, errors where they were due, and no thread left behind."""

import threading

import pytest

from jaxalign.data.ahead import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jaxalign-ahead")]


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("indices", [range(0), range(5), range(3, 7)])
def test_elements_come_in_order_and_from_another_thread(indices, depth):
    with ahead(lambda index: (index, threading.current_thread().name), indices, depth) as elements:
        found = list(elements)
    assert [index for index, _ in found] == list(indices)
    assert all(name.startswith("jaxalign-ahead") for _, name in found)
    assert not threads()


def test_at_most_so_many_are_made_ahead():
    """`make` waits for leave to begin each element: with leave for all, it still begins no more than two further."""
    begun, more = [], threading.Semaphore(0)

    def make(index: int) -> int:
        more.acquire()
        begun.append(index)
        return index

    with ahead(make, range(9), depth=2) as elements:
        for index in range(9):
            more.release()
            assert next(elements) == index  # asking for it lets the one two further on be begun, given leave
            assert len(begun) <= index + 3
        with pytest.raises(StopIteration):
            next(elements)
    assert begun == list(range(9))


def test_what_make_raises_is_raised_itself_where_the_element_was_due():
    error = KeyError("of make")

    def make(index: int) -> int:
        if index == 2:
            raise error
        return index

    with ahead(make, range(5)) as elements:
        assert [next(elements), next(elements)] == [0, 1]
        with pytest.raises(KeyError) as caught:
            next(elements)
    assert caught.value is error
    assert not threads()


def test_leaving_in_the_middle_waits_for_the_one_under_way_and_makes_no_more():
    begun, under_way, finish = [], threading.Event(), threading.Event()

    def make(index: int) -> int:
        begun.append(index)
        if index == 1:
            under_way.set()
            assert finish.wait(20)
        return index

    def stop() -> None:
        with ahead(make, range(50), depth=4) as elements:
            assert next(elements) == 0
            assert under_way.wait(20)
            threading.Timer(0.01, finish.set).start()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stop()
    assert begun == [0, 1]
    assert finish.is_set()
    assert not threads()


def test_an_error_that_nobody_asked_for_does_not_hide_what_stopped_the_work():
    failed = threading.Event()

    def make(index: int) -> int:
        if index:
            failed.set()
            raise KeyError("of make")
        return index

    def stop() -> None:
        with ahead(make, range(5)) as elements:
            next(elements)
            assert failed.wait(20)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        stop()
