"""`gc_paused` disables garbage collection and restores its state afterwards."""

import gc
import weakref

import pytest

from puma_engine.training.device import gc_paused


class Knot:
    """An object that only the garbage collector frees."""

    def __init__(self):
        self.itself = self


def make_garbage():
    """Allocate enough containers to start the collector several times."""
    return [[number] for number in range(20 * gc.get_threshold()[0])]


def test_no_garbage_is_collected_while_paused():
    gc.collect()
    with gc_paused():
        reference = weakref.ref(Knot())
        make_garbage()
        assert reference() is not None and not gc.isenabled()
    assert gc.isenabled()
    make_garbage()
    assert reference() is None


def test_a_disabled_collector_stays_disabled():
    gc.disable()
    try:
        with gc_paused(), gc_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_the_collector_is_enabled_again_after_an_error():
    with pytest.raises(RuntimeError, match="forbidden"), gc_paused():
        raise RuntimeError("forbidden")
    assert gc.isenabled()
