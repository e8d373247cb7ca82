"""The number of threads: from free cores, a container's limit and the user's setting."""

import logging
import os
import subprocess
import sys

import pytest
import torch

from puma_engine.training import cpu_threads
from puma_engine.training.cpu_threads import choose_threads, cpu_quota
from puma_engine.training.device import BF16_PARAMETERS, has_fast_bf16, resolve_precision


@pytest.mark.parametrize(
    ("cores", "quota", "used_by_others", "threads"),
    [
        (2, None, 0.0, 2),
        (2, None, 0.2, 2),
        (2, None, 0.5, 1),
        (2, None, 7.0, 1),
        (1, None, 0.0, 1),
        (16, None, 3.0, 13),
        (16, 4.0, 0.0, 4),
        (16, 4.0, 2.0, 2),
        (16, 0.5, 0.0, 1),
        (4, 8.0, 0.0, 4),
    ],
)
def test_threads_are_the_cores_that_are_free(cores, quota, used_by_others, threads):
    choice = choose_threads(cores, quota, used_by_others)
    assert choice.threads == threads
    assert f"others use {used_by_others:.1f}" in choice.reason
    assert ("limit allows" in choice.reason) == (quota is not None and quota < cores)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_a_limit_of_a_container_is_read(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cores


def test_a_busy_process_uses_cores():
    busy_loop = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy_loop], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        cores = cpu_threads.cores_used_by_others(0.6)
        child.kill()
    assert cores > 0.3


def test_finished_work_of_other_processes_does_not_count():
    assert cpu_threads.used_cores(now=0.0, last_minute=1.7) == 0.0
    # Work in bursts counts with its mean, and new work with its current load.
    assert cpu_threads.used_cores(now=0.5, last_minute=1.7) == 1.7
    assert cpu_threads.used_cores(now=1.9, last_minute=0.2) == 1.9


def test_a_number_that_the_user_set_stays(monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cpu_threads, "_chosen", None)
    before = torch.get_num_threads()
    with caplog.at_level(logging.INFO, logger="puma_engine"):
        choice = cpu_threads.use_free_threads()
        assert cpu_threads.use_free_threads() is choice
    assert choice.threads == before == torch.get_num_threads()
    assert [record.getMessage() for record in caplog.records] == [
        f"CPU: {before} {'thread' if before == 1 else 'threads'} (OMP_NUM_THREADS is set)."
    ]


def test_without_a_setting_torch_gets_the_choice():
    code = (
        "import torch; from puma_engine.training.cpu_threads import use_free_threads\n"
        "choice = use_free_threads(); print(choice.threads == torch.get_num_threads() >= 1)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "True"


def test_large_models_are_bf16_on_a_cpu_that_has_it(monkeypatch):
    cpu = torch.device("cpu")
    large = "bf16" if has_fast_bf16() else "fp32"
    assert resolve_precision("auto", cpu, BF16_PARAMETERS) == large
    assert resolve_precision("auto", cpu, BF16_PARAMETERS - 1) == "fp32"
    assert resolve_precision("auto", cpu) == "fp32"
    assert resolve_precision("fp32", cpu, BF16_PARAMETERS) == "fp32"
    monkeypatch.setattr("puma_engine.training.device.has_fast_bf16", lambda: False)
    assert resolve_precision("auto", cpu, BF16_PARAMETERS) == "fp32"
