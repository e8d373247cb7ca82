"""Turns limit how many pages are drawn at once, and no page waits for one that is stuck."""

import threading

import pytest

from dashboard.turns import Turns

LONG = 1000.0  # seconds


def in_thread(turns, order):
    """Start a thread that takes a turn and says so."""

    def take():
        with turns.turn():
            order.append("second")

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def test_a_page_waits_for_its_turn_and_gets_it_when_another_one_ends():
    turns, order = Turns(1, LONG), []
    with turns.turn():
        thread = in_thread(turns, order)
        thread.join(0.2)
        assert thread.is_alive()
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_as_many_pages_as_there_are_turns_are_drawn_together():
    turns, order = Turns(2, LONG), []
    with turns.turn():
        in_thread(turns, order).join(60)
        assert order == ["second"]


def test_a_page_that_is_stuck_holds_others_up_for_a_limited_time():
    turns, order = Turns(1, 0.01), []
    with turns.turn():
        in_thread(turns, order).join(60)
        assert order == ["second"]


def test_a_page_that_fails_gives_its_turn_back():
    turns, order = Turns(1, LONG), []
    with pytest.raises(ZeroDivisionError), turns.turn():
        raise ZeroDivisionError
    in_thread(turns, order).join(60)
    assert order == ["second"]
