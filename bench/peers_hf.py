"""Answering and scoring with plain transformers, as one would write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ours import choice_prompts, few_shot_prompts, own_precision
from timing import Pace, timed_passes
from workloads import NEW_TOKENS


def _model(folder: str, precision: str) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=precision).eval()
    # No token ends an answer, so that every side makes the same number of them.
    model.generation_config.eos_token_id = None
    return model


def _generate(model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """`NEW_TOKENS` new ids for each prompt, in one batch padded in front."""
    import torch

    width = max(map(len, prompts))
    pad = model.config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(own)) + list(own) for own in prompts])
    mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in prompts])
    found = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=pad
    )
    return found[:, width:].tolist()


def answer(what: dict[str, Any]) -> dict[str, Any]:
    """Time `generate` over the prompts with eight shots, `what["batch"]` at a time."""
    import torch
    from transformers import AutoTokenizer

    from luthier.model.device import peak_bytes, reset_peak

    prompts = few_shot_prompts(what["model"])
    tokenizer = AutoTokenizer.from_pretrained(what["model"])
    model = _model(what["model"], own_precision())
    reset_peak("cpu")
    with torch.inference_mode():
        clock, new = timed_passes(
            "transformers, answers", Pace(**what["pace"]), prompts, what["batch"], lambda own: _generate(model, own)
        )
        peak = peak_bytes("cpu")
        del model
        exact: list[list[int]] = []
        if what["checked"]:
            model = _model(what["model"], "float32")
            exact = [_generate(model, [prompt])[0] for prompt in prompts[: what["checked"]]]

    def texts(answers: Sequence[Sequence[int]]) -> list[str]:
        return [tokenizer.decode(own, skip_special_tokens=True).strip() for own in answers]

    return {
        **clock.result(),
        "peak_bytes": peak,
        "precision": own_precision(),
        "texts": texts(new),
        "texts_float32": texts(exact),
    }


def choose(what: dict[str, Any]) -> dict[str, Any]:
    """Time scoring each label as a sequence of its own behind the prompt; a step is a whole query."""
    import torch

    from luthier.model.device import peak_bytes, reset_peak

    prompts, answers = choice_prompts(what["model"])
    model = _model(what["model"], own_precision())
    reset_peak("cpu")

    def logprob(prompt: Sequence[int], label: Sequence[int]) -> float:
        ids = torch.tensor([[*prompt, *label]])
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]  # (label, V)
        own = logits.float().log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])
        return float(own.sum())

    def query(own: Sequence[tuple[int, ...]]) -> list[list[float]]:
        return [[logprob(prompt, label) for label in answers] for prompt in own]

    with torch.inference_mode():
        for label in answers[:3]:
            logprob(prompts[-1], label)  # warm-up: a whole query would take as long as a timed one
        clock, sums = timed_passes("transformers, choices", Pace(**what["pace"]), prompts, 1, query)
    return {**clock.result(), "peak_bytes": peak_bytes("cpu"), "precision": own_precision(), "logprobs": sums}
