"""Trainings that are killed, again and again, anywhere, end with the same bits as those that were not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="each start of the training is forked")

DRIVER = Path(__file__).with_name("kill_driver.py")


def killed_trainings(folder: Path, *, seed: int, kills: int) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, DRIVER, folder, str(seed), str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}, after {done.stdout or 'nothing'}:\n{done.stderr}"
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(trainings: list[dict[str, Any]], *, seed: int, kills: int) -> None:
    assert sum(len(training["kills"]) for training in trainings) == kills
    for training in trainings:
        assert training["differs"] == [], f"seed {seed}: {training}"
        assert all(kill["torn_by_the_kill"] == [] for kill in training["kills"]), f"seed {seed}: {training}"
        assert sorted(training["left"]) == ["step-00000007", "step-00000008"], f"seed {seed}: {training}"


def test_killed_trainings_end_with_the_same_bits(tmp_path: Path) -> None:
    check(killed_trainings(tmp_path, seed=0, kills=6), seed=0, kills=6)


@pytest.mark.slow
def test_trainings_killed_at_a_hundred_points_end_with_the_same_bits(tmp_path: Path) -> None:
    trainings = killed_trainings(tmp_path, seed=1, kills=100)
    check(trainings, seed=1, kills=100)
    kills = [kill for training in trainings for kill in training["kills"]]
    assert sum(kill["inside_a_save"] for kill in kills) > 20
    assert sum(kill["power_cut"] for kill in kills) > 10
    assert sum(kill["damage"] for kill in kills) > 10
