"""The wheel, installed outside a checkout: engine, command line, data, zoo and dashboard."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from waiting import free_port, wait_for_server

ROOT = Path(__file__).parents[2]
OUTSIDE = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PUMA"))}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def run(*command, folder):
    """Run a command outside the checkout and its Python path."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=OUTSIDE,
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(*command, folder):
    """Run a command that must succeed; returns its output."""
    done = run(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with the wheel and the dependencies of the environment under test."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if not name.startswith(("tests/", "docs/images/", "benchmarks/")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    succeed(*PIP, "wheel", "--no-deps", "-w", folder, source, folder=folder)
    venv.create(folder / "environment", with_pip=False)
    (packages,) = (folder / "environment" / "lib").glob("python3*/site-packages")
    (wheel,) = folder.glob("*.whl")
    succeed(*PIP, "install", "--no-deps", "--target", packages, wheel, folder=folder)
    # A line of a .pth file adds a folder but runs no .pth files in it, so that an editable
    # install of the checkout stays out of reach.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "environment" / "bin" / "python"


def test_the_wheel_contains_everything_needed_to_run(installed, tmp_path):
    puma = [installed, "-m", "puma_engine.cli", "--json", "-w", tmp_path / "workspace"]
    assert succeed(*puma, "--version", folder=tmp_path).startswith("puma ")
    checks = {row["check"]: row for row in json.loads(succeed(*puma, "doctor", folder=tmp_path))}
    assert checks["shipped data"]["status"] == checks["zoo"]["status"] == "ok", checks
    assert str(installed.parents[1]) in checks["shipped data"]["detail"]

    succeed(*puma, "data", "import", "goodbooks", "--users", "20", folder=tmp_path)
    fit = ["--dataset", "goodbooks-20", "--backbone", "llama-small", "--epochs", "1"]
    run = json.loads(succeed(*puma, "prompts", "fit", *fit, "--device", "cpu", folder=tmp_path))
    assert run["summary"]["users"] == 20
    assert json.loads(succeed(*puma, "claims", folder=tmp_path))


def test_the_wheel_opens_the_dashboard(installed, tmp_path):
    port = free_port()
    line = [str(installed), "-m", "puma_engine.cli", "serve", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(line, cwd=tmp_path, env=OUTSIDE, stdout=log, stderr=log)
    try:
        wait_for_server(f"http://localhost:{port}/_stcore/health", server)
    finally:
        server.terminate()
        server.wait(30)
