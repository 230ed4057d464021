"""How far two models' predictions lie apart, against whole logits of one sequence at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_logprobs import COUNTED, SEQUENCES
from torch.nn.functional import kl_div

from luthier.infer.divergence import divergences, predictions
from luthier.infer.engine import Engine
from luthier.tree import logprobs as logprobs_module
from luthier.types import ModelRef


def expected(before: Any, after: Any) -> list[float]:
    found = []
    for ids, counted in zip(SEQUENCES, COUNTED, strict=True):
        with torch.no_grad():
            p, q = (m(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1) for m in (before, after))
        nats = kl_div(q, p, reduction="none", log_target=True).sum(-1)
        found.append(float(nats[torch.tensor(counted[1:])].sum()))
    return found


@pytest.mark.parametrize("kind", ["llama", "gemma2", "tiny_mamba"])
def test_two_models_lie_apart_as_their_logits_say(
    varied: Callable[..., Any], kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logprobs_module, "CHUNK_ROWS", 3)
    before = request.getfixturevalue(kind) if kind.startswith("tiny") else varied(kind)
    after = varied("mamba" if kind == "tiny_mamba" else kind)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    with torch.inference_mode():
        found = divergences(*(predictions(model, SEQUENCES, COUNTED) for model in (before, after)))
        same = divergences(*(predictions(before, SEQUENCES, COUNTED) for _ in range(2)))
    assert [own.tokens for own in found] == [sum(counted) for counted in COUNTED]
    assert [own.nats for own in found] == pytest.approx(expected(before, after), rel=1e-3, abs=1e-4)
    assert all(abs(own.nats) < 1e-4 for own in same)


def test_a_model_can_be_let_go_when_it_has_predicted(varied: Callable[..., Any]):
    model = varied()
    found = predictions(model, SEQUENCES, COUNTED)
    layers = weakref.ref(model.model.layers[0])
    del model
    gc.collect()
    assert layers() is None
    assert found.logits(slice(0, 2)).shape == (2, 500)


def test_a_model_s_own_virtual_tokens_stand_before_what_is_compared(load_tiny: Callable[..., Any], tmp_path: Path):
    from luthier.model.virtual import add_virtual_tokens, new_soft_prompt, save_virtual_tokens

    model = load_tiny()
    base = model.name_or_path
    add_virtual_tokens(model, new_soft_prompt(model, [5, 6, 7]))
    save_virtual_tokens(model, tmp_path / "soft")
    tuned = ModelRef(base, (str(tmp_path / "soft"),))
    engine = Engine("cpu", "float32")
    sequences = engine.text_sequences(tuned, ["The sky is blue.", "Grass is green, mostly."])
    assert sequences == engine.text_sequences(ModelRef(base), ["The sky is blue.", "Grass is green, mostly."])
    before, after = (engine.predictions(ref, sequences) for ref in (ModelRef(base), tuned))
    found = engine.divergences(before, after)
    plain = load_tiny()
    for own, sequence in zip(found, sequences, strict=True):
        with torch.no_grad():
            p = plain(torch.tensor([sequence.ids])).logits[0, :-1].log_softmax(-1)
            # What prompt tuning begins as: the tokens themselves before the text.
            q = plain(torch.tensor([(5, 6, 7, *sequence.ids)])).logits[0, 3:-1].log_softmax(-1)
        assert own.nats == pytest.approx(float(kl_div(q, p, reduction="sum", log_target=True)), rel=1e-3)
        assert own.tokens == len(sequence.ids) - 1
