"""The benchmarks: their data, what they count and how they record it. They run by `make bench`, not here."""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench"
sys.path.append(str(BENCH))

import ceiling  # noqa: E402
import choose_label  # noqa: E402
import document_instructions  # noqa: E402
import ours  # noqa: E402
import peers_trl  # noqa: E402
import pictures  # noqa: E402
import record  # noqa: E402
import studies  # noqa: E402
import timing  # noqa: E402
import workloads  # noqa: E402
from luthier.infer.engine import Engine  # noqa: E402
from luthier.types import Prompt, PromptedModel  # noqa: E402

BENCHMARKS = (
    *("train_lora_varied", "train_full_varied", "train_lora_shared", "answer_few_shot", "choose_label"),
    *("loss_curves", "shared_sweep", "step_profile", "forecast", "retrieval_latency", "retrieval_quality"),
    *("document_instructions", "rivals", "verdict_simulation"),
)


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", [*BENCHMARKS, "record", "studies", "peers_trl"])
def test_the_help_shows_a_command_that_parses(name: str) -> None:
    options = script(name).parser()
    (example,) = re.findall(r"Example: (.+)", " ".join(options.format_help().split()))
    python, file, *words = shlex.split(example)
    assert python == ".venv/bin/python"
    assert (ROOT / file).is_file()
    options.parse_args(words)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_is_quick_on_demand_and_gives_json(name: str) -> None:
    given = script(name).parser().parse_args(["--quick", "--json"])
    assert given.quick
    assert given.json


def test_the_help_comes_up_without_torch() -> None:
    code = f"import sys; sys.path.append({str(BENCH)!r}); import {', '.join(BENCHMARKS)}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_make_bench_runs_every_benchmark_and_then_records() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = makefile.partition("\nbench:")[2].partition("\n\n")[0]
    run = re.findall(r"bench/(\w+)\.py", commands)
    assert set(run) == {*BENCHMARKS, "record"}
    assert run[-1] == "record"


def test_the_benchmarks_pin_nothing_that_the_project_pins() -> None:
    own, shared = (
        {line.partition("==")[0] for line in file.read_text(encoding="utf-8").splitlines() if "==" in line}
        for file in (BENCH / "constraints.txt", ROOT / "constraints.txt")
    )
    assert own == {"trl"}
    assert not own & shared


@pytest.mark.parametrize("folder", ["varied", "banking77"])
def test_the_data_name_their_source_and_bring_their_licences(folder: str) -> None:
    page = (BENCH / "data" / folder / "SOURCE.md").read_text(encoding="utf-8")
    assert "Source: https://" in page
    named = re.findall(r"LICENSE[\w.]*\.txt", page)
    assert named
    assert all((BENCH / "data" / folder / name).is_file() for name in named)


def test_varied_rows_are_196_tokens_on_average_and_half_padding_in_batches(real_model_folder: Path) -> None:
    sequences = ours.sequences(workloads.varied_rows(), str(real_model_folder))
    lengths = [len(s.ids) for s in sequences]
    assert len(lengths) == 320
    assert sum(lengths) / len(lengths) == pytest.approx(196, abs=1)
    assert (min(lengths), max(lengths)) == (45, 710)
    draw = random.Random(0)
    drawn = [draw.sample(lengths, 8) for _ in range(400)]
    padding = 1 - sum(map(sum, drawn)) / sum(8 * max(batch) for batch in drawn)
    assert 0.45 < padding < 0.6


def test_shared_rows_share_an_instruction_of_573_tokens(real_model_folder: Path) -> None:
    sequences = ours.sequences(workloads.shared_rows(), str(real_model_folder))
    assert len(sequences) == 640
    assert ours.common_length([s.ids for s in sequences]) == 573
    assert max(len(s.ids) for s in sequences) < 700


def test_all_77_labels_stand_in_the_instruction() -> None:
    labels = workloads.labels()
    ((role, instruction), _) = workloads.shared_rows()[0].turns
    assert len(labels) == 77
    assert role == "system"
    assert all(label in instruction for label in labels)


def test_few_shot_prompts_share_all_but_the_question(real_model_folder: Path) -> None:
    prompts = ours.few_shot_prompts(str(real_model_folder))
    shots, rows = workloads.few_shot_rows()
    assert len(shots) == 8
    assert len({shot.completion for shot in shots}) == 8
    assert not set(shots) & set(rows)
    assert ours.common_length(prompts) == 792
    assert sum(map(len, prompts)) / len(prompts) == pytest.approx(811, abs=1)


@pytest.mark.parametrize("shared", [0, 64, 1024])
def test_branching_sequences_share_exactly_so_many_tokens(shared: int, real_model_folder: Path) -> None:
    sequences = ours.branching_sequences(str(real_model_folder), shared, 40)
    assert len({s.id for s in sequences}) == 40
    assert ours.common_length([s.ids for s in sequences]) == shared
    assert all(any(s.trained) and not s.trained[0] for s in sequences)


@pytest.mark.parametrize("workload", ["varied", "shared"])
def test_the_template_for_trl_gives_the_tokens_that_luthier_trains_on(workload: Any, real_model_folder: Path) -> None:
    tokenizer = ours.renderer(str(real_model_folder)).tokenizer
    template = peers_trl.TEMPLATE.read_text(encoding="utf-8").removesuffix("\n")
    rows = workloads.training_rows(workload)
    for row, sequence in zip(rows, ours.sequences(rows, str(real_model_folder)), strict=True):
        (own,) = peers_trl.dataset_rows([row])
        whole = tokenizer.apply_chat_template(own["prompt"] + own["completion"], chat_template=template)["input_ids"]
        prompt = tokenizer.apply_chat_template(own["prompt"], chat_template=template, add_generation_prompt=True)
        assert whole == list(sequence.ids)
        assert [False] * len(prompt["input_ids"]) == list(sequence.trained)[: len(prompt["input_ids"])]
        assert all(sequence.trained[len(prompt["input_ids"]) :])


def test_trl_gets_the_batches_that_luthier_takes() -> None:
    taken = peers_trl.taken_rows([5] * 40, 8, 3, peers_trl.DEFAULT)
    assert taken == [i for batch in ours.batches(40, 8, 3) for i in batch]


def test_grouped_batches_are_of_similar_length_and_of_all_sizes() -> None:
    lengths = [random.Random(n).randint(40, 700) for n in range(320)]
    taken = peers_trl.taken_rows(lengths, 8, 12, peers_trl.Options(grouped=True))
    batches = [[lengths[i] for i in taken[k : k + 8]] for k in range(0, 96, 8)]
    assert len(set(taken)) == 96
    assert 1 - sum(map(sum, batches)) / sum(8 * max(b) for b in batches) < 0.15
    means = [sum(b) / 8 for b in batches[2:]]
    assert sum(means) / 10 == pytest.approx(sum(lengths) / 320, rel=0.15)


@pytest.mark.parametrize("workload", [("varied", "lora"), ("varied", "none"), ("shared", "lora")])
def test_the_tuned_options_are_among_the_candidates(workload: tuple[Any, str]) -> None:
    assert peers_trl.tuned(*workload) in peers_trl.CANDIDATES.values()


def ticking(monkeypatch: pytest.MonkeyPatch, pace: timing.Pace, seconds: Sequence[float]) -> tuple[timing.Clock, int]:
    """A clock after steps that took so long, each of 12 tokens, and how many it asked for."""
    now = iter([0.0, *(sum(seconds[: n + 1]) for n in range(len(seconds)))])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    clock = timing.Clock(pace)
    return clock, next((n for n in range(1, len(seconds) + 1) if clock.tick(12)), 0)


def test_the_median_leaves_out_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = ticking(monkeypatch, timing.Pace(warmup=2, steps=3), [50.0, 50.0, 2.0, 3.0, 4.0, 9.0])
    assert steps == 5
    assert clock.result() == {
        "rate": 4.0,
        "overall": 4.0,
        "step_s": 3.0,
        "timed_steps": 3,
        "warmup_steps": 2,
        "work_a_step": 12,
    }


def test_slow_steps_are_timed_three_times_after_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = ticking(monkeypatch, timing.FULL, [80.0] * 12)
    assert steps == 4
    assert (clock.result()["warmup_steps"], clock.result()["timed_steps"]) == (1, 3)


def test_a_quick_run_times_one_step_however_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = ticking(monkeypatch, timing.QUICK, [80.0] * 12)
    assert steps == 2
    assert clock.result()["timed_steps"] == 1


def test_training_flops_by_hand() -> None:
    shape = ceiling.ModelShape(hidden=4, intermediate=6, layers=1, heads=2, kv_heads=1, head_dim=2, vocabulary=10)
    weights = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 2 * 4 * 6 + 6 * 4
    adapters = 3 * ((4 + 4) + 2 * (4 + 2) + (4 + 4) + 2 * (4 + 6) + (6 + 4))
    attention = 4 * 2 * 2 * (1 + 2 + 3)
    full = ceiling.training_flops(shape, [3], [2], rank=None)
    assert full == 6 * (weights * 3 + 4 * 10 * 2) + 3 * attention
    lora = ceiling.training_flops(shape, [3], [2], rank=3)
    assert lora == 4 * (weights * 3 + 4 * 10 * 2) + 6 * adapters * 3 + 3 * attention


def test_choices_are_compared_query_by_query() -> None:
    found = choose_label.agreement([[-1.0, -2.0], [-3.0, -1.0], [0.0, 0.0]], [[-1.5, -2.0], [-1.0, -2.0]])
    assert found == {"same": 1, "compared": 2, "mean_difference": 0.875, "largest_difference": 2.0}


def test_a_picture_is_an_svg_with_every_line_named() -> None:
    chart = pictures.line_chart("T", "x", "y", {"a < b": [(1, 2), (128, 5)], "c": [(1, 1), (128, 0.5)]}, log_x=True)
    root = ET.fromstring(chart)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"T", "x", "y", "a < b", "c"} <= texts


FRAME = {
    "quick": False,
    "date": "2026-11-24",
    "versions": {"luthier": "0.1.0", "trl": "1.16.0"},
    "machine": {
        "cpu": "Some CPU",
        "cores": 2,
        "torch_threads": 2,
        "memory_gb": 24.0,
        "own_precision": "bfloat16",
        "system": "Linux",
    },
}
SIDE = {"overall": 1.0, "step_s": 2.5, "timed_steps": 10, "warmup_steps": 2, "work_a_step": 1500.0}
SPEED = {
    "benchmark": "train_lora_varied",
    "ours": 800.0,
    "peers": {"trl-default": 100.0, "trl-tuned": 400.0},
    "unit": "useful tokens/s",
    "ratios": {"trl-default": 8.0, "trl-tuned": 2.0},
    "targets": {"trl-default": 7.0, "trl-tuned": 2.5},
    "sides": {
        "luthier": {**SIDE, "rate": 800.0, "peak_bytes": 1e9},
        "trl-default": {**SIDE, "rate": 100.0, "peak_bytes": 4e9},
        "trl-tuned": {**SIDE, "rate": 400.0, "peak_bytes": 4e9},
    },
    "memory": {"trl-default": 0.25, "trl-tuned": 0.25},
    "ceiling_share": {"luthier": 0.7, "trl-default": 0.0875, "trl-tuned": 0.35},
    "notes": ["A note."],
    **FRAME,
}
SWEEP = {
    "benchmark": "shared_sweep",
    "tables": {"useful tokens a second": [["shared tokens", "1 branch"], [0, "150"], [1024, "400"]]},
    "notes": ["All steps after the first."],
    **FRAME,
}


def test_the_record_fills_in_what_was_measured_and_says_what_was_not(tmp_path: Path) -> None:
    for one in (SPEED, SWEEP):
        (tmp_path / f"{one['benchmark']}.json").write_text(json.dumps(one) + "\n", encoding="utf-8")
    old = f"# Page\n\n{record.BEGIN}\nold figures\n{record.END}\n\nMore.\n\n"
    old += f"{record.STUDIES_BEGIN}\n{record.STUDIES_END}\n\nThe end.\n"
    page = record.with_figures(old, record.read_results(tmp_path), [])
    assert page.startswith("# Page\n")
    assert page.endswith("The end.\n")
    assert "old figures" not in page
    lines = page.splitlines()
    assert "| train_lora_varied: times as fast as trl-default | 7× | 8.0× | yes |" in lines
    assert "| train_lora_varied: times as fast as trl-tuned | 2.5× | 2.0× | no |" in lines
    assert "| train_lora_varied: share of the GEMM ceiling | 65% | 70% | yes |" in lines
    assert "| train_lora_varied: peak memory as a share of trl-tuned's | 33% | 25% | yes |" in lines
    assert "| choose_label: times as fast as hf-each-label | 100× | — | — |" in lines
    assert "| trl-tuned | 400 | 2.0× | 2.5× | 2.5 s | 10 | 4.00 GB | 35% |" in lines
    assert "| 1024 | 400 |" in lines
    assert "Some CPU, 2 cores" in page
    assert "None has been run at full size yet." in page
    assert record.with_figures(page, record.read_results(tmp_path), []) == page


def test_the_page_holds_what_the_kept_results_say() -> None:
    page = record.PAGE.read_text(encoding="utf-8")
    again = record.with_figures(page, record.read_results(BENCH / "results"), studies.read_studies())
    assert again == page, "run: python bench/record.py"


@pytest.mark.slow
def test_choose_label_runs_with_a_tiny_model(tokenizer: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=2048, pad_token_id=2, num_key_value_heads=2, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    command = [sys.executable, "bench/choose_label.py", "--quick", "--json", "--model", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), check=True)
    (line,) = run.stdout.splitlines()
    found = json.loads(line)
    assert {"benchmark", "ours", "peers", "unit", "ratios", "versions"} <= set(found)
    assert found["ratios"]["hf-each-label"] == pytest.approx(found["ours"] / found["peers"]["hf-each-label"])
    assert found["agreement"]["compared"] == found["sides"]["hf-each-label"]["timed_steps"]


def test_what_is_timed_is_the_step_sft_and_is_left_when_enough_is_timed(tiny_model_folder: Path) -> None:
    losses: list[float] = []

    def log(row: Mapping[str, float]) -> None:
        losses.append(row["train/loss"])
        if len(losses) == 2:
            raise ours._EnoughError

    folder = str(tiny_model_folder)
    data = ours.sequences(workloads.training_rows("varied")[:12], folder)
    ours.fit(data, folder, "lora", 4, 3, log, precision="float32")
    assert len(losses) == 2


def test_orders_in_documents_are_counted_with_and_without_the_defence(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gullible(engine: Engine, predictor: PromptedModel, prompts: Sequence[Prompt]) -> list[SimpleNamespace]:
        """Obeys what is not fenced off."""
        assert predictor.retrieval is not None
        shown = [prompt.passages[0].text for prompt in prompts]  # type: ignore[index]
        return [SimpleNamespace(text="" if predictor.retrieval.guarded else text) for text in shown]

    asked = document_instructions.measure(quick=True, model=str(tiny_model_folder))  # for real
    assert asked["rates"].keys() == {*document_instructions.ATTACKS, "all together"}
    assert all(0 <= rate <= 1 for pair in asked["rates"].values() for rate in pair)
    monkeypatch.setattr(Engine, "answer", gullible)
    found = document_instructions.measure(quick=True, model=str(tiny_model_folder))
    assert all(pair == [1.0, 0.0] for pair in found["rates"].values())
    assert "the word stands in 0 and 0 answers" in found["notes"][0]


def test_the_simulation_of_verdicts_goes_through_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = script("verdict_simulation")
    monkeypatch.setattr(simulation, "QUICK_RUNS", 4)
    found = simulation.measure(quick=True)
    assert set(found["scores"]) == {
        f"gap {gap}, n {n}, trainings {m}, scatter 0.03, shared 0.8"
        for gap in (0.0, 0.05, 0.12)
        for n in (60, 180)
        for m in (1, 3, 5)
    }
    assert found["worst"]["interval against words"] == 0
    assert all(0 <= own["covers"] <= 1 and own["false"] <= own["better"] for own in found["scores"].values())


def test_test_sets_drawn_from_a_run_are_judged_as_the_run_is(tmp_path: Path) -> None:
    subsets = script("verdict_subsets")
    cost = dict.fromkeys(("train_s", "search_s", "tokens_per_s", "trainable_share", "prompt_tokens"), 0.0)
    cost |= dict.fromkeys(("tokens_seen", "peak_bytes", "trainable_parameters", "stored_bytes"), 0)
    cost |= {"window_share": 0.0, "latency_p50_s": 0.1, "latency_p95_s": 0.1, "throughput_per_s": 10.0}
    cost |= {"seconds_per_request": 0.1, "passage_tokens": 0.0, "completion_tokens": 1.0}
    base = {"kind": "prompted model", "cost": cost, "validation": None}
    kept = {
        "name": "made-up",
        "metric": "accuracy",
        "n": 600,
        "requests": 10,
        "margin": 0.02,
        "forgetting_limit": None,
        "approaches": [
            {**base, "name": "lora", "training": "language model", "right": ["1" * 500 + "0" * 100] * 3},
            {**base, "name": "zero-shot", "training": "none", "right": ["01" * 300]},
        ],
        "floors": [{"name": "draw", "kind": "draw", "words": "drawing", "right": "0" * 550 + "1" * 50}],
    }
    found = subsets.measure([kept], quick=True)
    assert found["scores"] == {
        f"made-up, n {size}": {"same": 1.0, "opposite": 0.0, "cannot tell": 0.0} for size in (180, 480)
    }
    (title,) = found["tables"]
    assert title == "made-up, 600 test examples: Use lora: 83.3% against 50.0% for zero-shot."
