"""Noticing other programs while something is timed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from luthier import busy
from luthier.busy import OtherWork, busy_note


def test_the_cores_of_others_are_those_at_work_without_our_own(monkeypatch: pytest.MonkeyPatch):
    clocks = iter([busy._Clock(10.0, 100.0, 5.0), busy._Clock(14.0, 107.0, 8.0)])
    monkeypatch.setattr(busy._Clock, "now", lambda: next(clocks))
    assert OtherWork().cores == pytest.approx((7 - 3) / 4)


def test_coarse_clocks_claim_nothing(monkeypatch: pytest.MonkeyPatch):
    clocks = iter([busy._Clock(10.0, 100.0, 5.0), busy._Clock(11.0, 100.1, 5.2)])
    monkeypatch.setattr(busy._Clock, "now", lambda: next(clocks))
    assert OtherWork().cores == 0


def test_a_program_that_spins_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        time.sleep(0.5)  # until it runs
        others = OtherWork()
        time.sleep(1)
        seen = others.cores
        spinning.kill()
    assert seen >= busy.BUSY_CORES


def test_a_quiet_machine_is_not_spoken_of():
    assert busy_note(0.1, "this forecast") == ""
    assert "about 1.5 of" in busy_note(1.5, "this forecast")


@pytest.mark.parametrize(
    ("before", "cores", "policy"),
    [
        ("", 1.0, "PASSIVE"),
        ("", 0.0, "None"),
        ("os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'", 1.0, "ACTIVE"),
        ("import torch", 1.0, "None"),
    ],
)
def test_threads_sleep_while_they_wait_where_others_work(before: str, cores: float, policy: str):
    program = f"""
import os
from luthier import busy
os.environ.pop("OMP_WAIT_POLICY", None)
busy.OtherWork.cores = {cores}
{before}
busy.wait_as_the_machine_is()
print(os.environ.get("OMP_WAIT_POLICY"))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == policy


def test_what_decides_loads_nothing_that_computes():
    program = "import sys, luthier.cli; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
