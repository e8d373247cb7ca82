"""The command line in this process, for tests of commands that must succeed."""

import json

from typer.testing import CliRunner

from puma_engine.cli import app


def puma(ws, *arguments):
    """Run a command on a workspace (None: without one); return what it printed as JSON."""
    workspace = [] if ws is None else ["-w", str(ws.root)]
    result = CliRunner().invoke(app, [*map(str, arguments), *workspace, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
