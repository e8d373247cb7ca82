"""The warm what-if processes of a workspace, for tests."""

import time

import psutil


def processes_of(ws):
    servers = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any("whatif_server" in word for word in line) and str(ws.root) in line:
            servers.append(process)
    return servers


def ended(ws, seconds=120):
    until = time.monotonic() + seconds
    while processes_of(ws) and time.monotonic() < until:
        time.sleep(0.05)
    return not processes_of(ws)


def kill(ws):
    for process in processes_of(ws):
        process.kill()
        process.wait(60)
