"""Waiting for conditions and servers in tests, with limits that only a hang exceeds."""

import socket
import time
import urllib.request

SECONDS = 240


def wait_for(condition, what="a condition", seconds=SECONDS):
    """Return what the condition returns once it is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"It took longer than {seconds:.0f} s for {what}.")


def free_port():
    """A port of localhost that no process listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_server(url, process, seconds=SECONDS):
    """Return the body of an address once the process answers; fail if the process ends."""

    def answer():
        assert process.poll() is None, f"The server ended with {process.returncode}."
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.read()
        except OSError:
            return None

    return wait_for(answer, url, seconds)
