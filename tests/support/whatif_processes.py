"""The warm what-if processes of a workspace, for tests."""

import psutil


def processes_of(ws):
    servers = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any("whatif_server" in word for word in line) and str(ws.root) in line:
            servers.append(process)
    return servers


def kill(ws):
    for process in processes_of(ws):
        process.kill()
        process.wait(60)
