"""The warm what-if processes of a workspace, for tests."""

import time

import psutil


def processes_of(ws):
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "puma_engine.serving.whatif_server" in line and str(ws.root) in line:
            found.append(process)
    return found


def ended(ws, seconds=20):
    until = time.monotonic() + seconds
    while processes_of(ws) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes_of(ws)


def kill(ws):
    for process in processes_of(ws):
        process.kill()
        process.wait(5)
