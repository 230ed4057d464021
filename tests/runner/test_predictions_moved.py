"""How far training moved a model's predictions, as a run measures it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_run import written
from test_stages import WORDS, chained, write_tasks
from torch.nn.functional import kl_div

from luthier.evaluate import forgetting
from luthier.infer.engine import Engine
from luthier.model.load import load_model, load_tokenizer
from luthier.record import load_predictor
from luthier.report.console import comparison_table
from luthier.report.html import write_report
from luthier.runner import divergence, run
from luthier.runner.estimate import forecast
from luthier.runner.folder import read_json
from luthier.runner.prepare import prepare
from luthier.types import ModelRef


@pytest.fixture(autouse=True)
def few_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts, pairs = forgetting.general_text()[:3], forgetting.minimal_pairs()[:4]
    for module in (forgetting, divergence):
        monkeypatch.setattr(module, "general_text", lambda: texts)
    monkeypatch.setattr(forgetting, "minimal_pairs", lambda: pairs)
    monkeypatch.setattr(divergence, "EXAMPLES", 4)
    return texts


def study_of(model: Path, **changes: Any) -> Any:
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "batch_size": 4, "evaluations": 1}
    approaches = {
        "base": [],
        "chain": [{**sft, "data": "colours"}, sft],
        "soft": [{**sft, "adapter": {"kind": "prompt-tuning", "tokens": 2}}],
    }
    return chained(model, **{"approaches": approaches, "stage_answers": 0, "forgetting": {"limit": 10.0}} | changes)


def test_predictions_are_compared_on_general_text_and_on_every_task(
    tiny_model_folder: Path, tmp_path: Path, few_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tasks(tmp_path)
    study = study_of(tiny_model_folder)
    asked: list[ModelRef] = []
    real = Engine.predictions

    def spy(self: Engine, ref: ModelRef, *args: Any, **others: Any) -> Any:
        asked.append(ref)
        return real(self, ref, *args, **others)

    monkeypatch.setattr(Engine, "predictions", spy)
    result = run(study, tmp_path / "run", root=tmp_path)
    assert len(asked) == 3
    assert asked.count(ModelRef(str(tiny_model_folder))) == 1  # both approaches ask alike
    rows = {row["name"]: row for row in result.comparison["approaches"]}
    assert "divergence" not in rows["base"]
    found = {name: {one["on"]: one for one in rows[name]["divergence"]} for name in ("chain", "soft")}
    for own in found.values():
        assert list(own) == ["general_text", *WORDS]
        assert [own[on]["n"] for on in own] == [3, 4, 4, 4]
        assert all(one["low"] <= one["mean"] <= one["high"] for one in own.values())
    assert [on for on, one in found["chain"].items() if one["learned"]] == ["colours", "sizes"]
    assert [on for on, one in found["soft"].items() if one["learned"]] == ["sizes"]
    # It is no probe, so the limit does not concern it.
    assert [probe["probe"] for probe in rows["chain"]["forgotten"]] == [
        "general_text",
        "minimal_pairs",
        "truthful_answers",
    ]

    # By hand, with plain transformers.
    tuned = load_predictor(tmp_path / "run/approaches/chain/predictor.json", tmp_path / "run").model
    models = [load_model(r, device="cpu", precision="float32") for r in (ModelRef(str(tiny_model_folder)), tuned)]
    tokenizer = load_tokenizer(tiny_model_folder)
    nats = []
    for text in few_texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:512]])
        with torch.no_grad():
            p, q = (model(ids).logits[0, :-1].log_softmax(-1) for model in models)
        nats.append(float(kl_div(q, p, reduction="sum", log_target=True)) / (ids.shape[1] - 1))
    assert found["chain"]["general_text"]["mean"] == pytest.approx(sum(nats) / 3, rel=1e-3)

    before = written(tmp_path / "run", "divergence/*.json")
    assert len(before) == 2
    monkeypatch.setattr(Engine, "predictions", lambda *args, **others: pytest.fail("it was measured already"))
    again = run(study, tmp_path / "run", root=tmp_path)
    assert written(tmp_path / "run", "divergence/*.json") == before
    assert dict(again.comparison) == dict(result.comparison)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "How far predictions moved" in page
    assert "n = 4, learned" in page
    assert comparison_table(read_json(tmp_path / "run/comparison.json"))


def test_a_forecast_counts_what_is_written_held_and_compared(tiny_model_folder: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "batch_size": 4, "evaluations": 1}
    approaches = {
        "plain": [sft],
        "held": [{**sft, "keep": {"kl": 1.0, "l2": 1.0}}],
        "replayed": [{**sft, "replay": {"task": "colours", "examples": 6}}],
        "scratch": [{**sft, "replay": {"examples": 64}}],
    }
    seconds = {
        probe: {
            one.name: one.seconds
            for one in forecast(
                prepare(study_of(tiny_model_folder, approaches=approaches, forgetting={"probe": probe}), tmp_path)
            ).approaches
        }
        for probe in (True, False)
    }
    assert seconds[True]["plain"] > seconds[False]["plain"] > 0
    assert all(seconds[True]["scratch"] > seconds[True][name] for name in ("plain", "held", "replayed"))


def test_a_replayed_task_s_data_are_in_the_key_and_without_probes_nothing_is_compared(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    write_tasks(tmp_path)
    sft = {"step": "sft", "adapter": {"rank": 2}, "epochs": 1, "evaluations": 1}
    approaches = {"direct": [sft], "replayed": [{**sft, "replay": {"task": "colours", "examples": 4}}]}
    study = study_of(tiny_model_folder, approaches=approaches, forgetting={"probe": False})

    def reused() -> dict[str, bool]:
        run(study, tmp_path / "run", root=tmp_path)
        return {
            name: read_json(tmp_path / f"run/approaches/{name}/approach.json")["steps"][0]["reused"]
            for name in approaches
        }

    assert reused() == {"direct": False, "replayed": False}
    assert not (tmp_path / "run/divergence").exists()  # as probe: false says
    with open(tmp_path / "colours-train.csv", "a", encoding="utf-8") as handle:
        handle.write("poppy train 9,red\n")
    assert reused() == {"direct": True, "replayed": False}


def test_an_unknown_task_to_replay_is_named(tiny_model_folder: Path) -> None:
    from luthier.errors import StudyError

    with pytest.raises(StudyError, match=r"approaches\.a\.0\.replay\.task: 'colors' is no task of this study"):
        study_of(tiny_model_folder, approaches={"a": [{"step": "sft", "replay": {"task": "colors", "examples": 3}}]})
