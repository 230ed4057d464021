"""TRL's side: as its users have it by default, and tuned.

What tunes it best is tried out by

    .venv/bin/python bench/peers_trl.py --tune

which times each candidate for a few steps and prints a table; the best of them stand in `TUNED`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ours import ALPHA, RANK, SEED, batches, model_folder, sequences
from sides import progress, run_side
from timing import Clock, Pace
from workloads import Row, Workload, training_rows

TEMPLATE = Path(__file__).parent / "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may set. None leaves TRL's own default.

    Attributes:
        dtype: Precision that the model is loaded in (default: float32).
        bf16: Compute in bfloat16 by autocast (default: yes).
        attention: Implementation of attention (default: sdpa).
        checkpointing: Recompute activations in the backward pass (default: yes).
        grouped: Form batches of similar length (`train_sampling_strategy="group_by_length"`; default: at random).
        rows_at_once: Rows that go through together; the gradients of a batch's parts are added up (default: all).
        padding_free: Lay the rows of a batch one behind the other in place of padding them.
        packing: Rows of `max_length` tokens, filled with whole examples; two of them come near a batch of 8.
        compiled: torch.compile.
    """

    dtype: str | None = None
    bf16: bool | None = None
    attention: str | None = None
    checkpointing: bool | None = None
    grouped: bool = False
    rows_at_once: int | None = None
    padding_free: bool = False
    packing: bool = False
    compiled: bool = False


DEFAULT = Options()
_FAST = Options(dtype="bfloat16", checkpointing=False)

CANDIDATES: dict[str, Options] = {
    "default": DEFAULT,
    "float32 weights, grouped": Options(checkpointing=False, grouped=True),
    "bfloat16": _FAST,
    "bfloat16, no autocast": dataclasses.replace(_FAST, bf16=False),
    "bfloat16, eager": dataclasses.replace(_FAST, attention="eager"),
    "bfloat16, grouped": dataclasses.replace(_FAST, grouped=True),
    "bfloat16, eager, grouped": dataclasses.replace(_FAST, attention="eager", grouped=True),
    "bfloat16, no autocast, eager, grouped": dataclasses.replace(_FAST, bf16=False, attention="eager", grouped=True),
    "bfloat16, one row at once": dataclasses.replace(_FAST, rows_at_once=1),
    "bfloat16, eager, one row at once": dataclasses.replace(_FAST, attention="eager", rows_at_once=1),
    "bfloat16, no autocast, one row at once": dataclasses.replace(_FAST, bf16=False, rows_at_once=1),
    "bfloat16, no autocast, eager, one row at once": dataclasses.replace(
        _FAST, bf16=False, attention="eager", rows_at_once=1
    ),
    "bfloat16, eager, grouped, two rows at once": dataclasses.replace(
        _FAST, attention="eager", grouped=True, rows_at_once=2
    ),
    "bfloat16, padding-free": dataclasses.replace(_FAST, padding_free=True),
    "bfloat16, eager, padding-free": dataclasses.replace(_FAST, attention="eager", padding_free=True),
    "bfloat16, packing": dataclasses.replace(_FAST, packing=True),
    "bfloat16, eager, grouped, compiled": dataclasses.replace(_FAST, attention="eager", grouped=True, compiled=True),
    "bfloat16, eager, one row at once, compiled": dataclasses.replace(
        _FAST, attention="eager", rows_at_once=1, compiled=True
    ),
}

# Which candidate is `trl-tuned`, by workload and adapter.
TUNED: dict[tuple[str, str], str] = {
    ("varied", "lora"): "bfloat16, eager, grouped, two rows at once",
    ("varied", "none"): "bfloat16, eager, one row at once",
    ("shared", "lora"): "bfloat16, eager, grouped, two rows at once",
}


def tuned(workload: Workload, adapter: str) -> Options:
    return CANDIDATES[TUNED[workload, adapter]]


def dataset_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Conversational prompts and completions, for which TRL counts the loss on the completion by default."""
    return [
        {"prompt": row.messages(), "completion": [{"role": "assistant", "content": row.completion}]} for row in rows
    ]


def taken_rows(lengths: Sequence[int], batch_size: int, steps: int, options: Options) -> list[int]:
    """Which rows the trainer is given, in the order in which it takes them.

    By default the batches are those that Luthier takes. Grouped by length they are those that TRL would form over the
    whole data; as it goes through them from long to short, the few that are timed are drawn evenly.
    """
    if not options.grouped:
        return [i for batch in batches(len(lengths), batch_size, steps) for i in batch]
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    order = get_length_grouped_indices(lengths, batch_size, generator=torch.Generator().manual_seed(SEED))
    found = sorted(
        (order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)),
        key=lambda batch: sum(lengths[i] for i in batch),
    )
    even = [found[int((k + 0.5) * len(found) / steps)] for k in range(steps)]
    # Long and short in turn, so that steps left out at the beginning or the end are of all sizes.
    mixed = [even[(k * _coprime(steps)) % steps] for k in range(steps)]
    return [i for batch in mixed for i in batch]


def _coprime(steps: int) -> int:
    """A stride of about 0.6 of the steps that visits each of them once."""
    return next((k for k in range(max(1, round(0.6 * steps)), steps) if math.gcd(k, steps) == 1), 1)


def _config(options: Options, batch_size: int, steps: int, folder: str, **more: Any) -> Any:
    """TRL's settings: what the options say, and what is needed to run silently on a CPU without saving."""
    from trl import SFTConfig

    chosen: dict[str, Any] = {"model_init_kwargs": {}}
    if options.dtype is not None:
        chosen["model_init_kwargs"]["dtype"] = options.dtype
    if options.attention is not None:
        chosen["model_init_kwargs"]["attn_implementation"] = options.attention
    if options.bf16 is not None:
        chosen["bf16"] = options.bf16
    if options.checkpointing is not None:
        chosen["gradient_checkpointing"] = options.checkpointing
    rows = options.rows_at_once or batch_size
    if options.packing:
        rows = max(1, batch_size // 4)
        chosen |= {"packing": True}
    if options.padding_free:
        chosen |= {"padding_free": True, "max_length": None}
    if options.compiled:
        chosen |= {"torch_compile": True}
    return SFTConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1 if options.packing else batch_size // rows,
        chat_template_path=str(TEMPLATE),
        train_sampling_strategy="sequential",  # the rows come in the order that is wanted
        seed=SEED,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(chosen | more),
    )


def _trainer_class() -> Any:
    """TRL's trainer, which also counts the tokens of each step and keeps its loss."""
    from trl import SFTTrainer

    class CountingTrainer(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens = int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            loss = super().training_step(model, inputs, *args, **kwargs)
            self.step_tokens = getattr(self, "step_tokens", 0) + tokens
            self.step_loss = getattr(self, "step_loss", 0.0) + float(loss)
            return loss

        def taken(self) -> tuple[int, float]:
            """Tokens and loss since the last call."""
            found = self.step_tokens, self.step_loss
            self.step_tokens, self.step_loss = 0, 0.0
            return found

    return CountingTrainer


def _lora(adapter: str) -> Any:
    if adapter == "none":
        return None
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")


def same_tokens(prepared: Any, own: Sequence[Any]) -> int:
    """How many of the rows that TRL prepared have the ids and the trained tokens of Luthier's sequences."""
    same = 0
    for row, sequence in zip(prepared, own, strict=True):
        labels = [token if trained else -100 for token, trained in zip(sequence.ids, sequence.trained, strict=True)]
        same += row["input_ids"] == list(sequence.ids) and row["labels"] == labels
    return same


def train(what: dict[str, Any]) -> dict[str, Any]:
    """Time training on a workload with the given options."""
    from datasets import Dataset
    from transformers import TrainerCallback

    from luthier.model.device import peak_bytes, reset_peak

    options, pace = Options(**what["options"]), Pace(**what["pace"])
    rows = training_rows(what["workload"])
    own = sequences(rows, what["model"])
    taken = taken_rows([len(s.ids) for s in own], what["batch"], pace.at_most, options)
    clock = Clock(pace)
    peak = 0
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer_class()(
            model=what["model"],
            args=_config(options, what["batch"], pace.at_most, folder),
            train_dataset=Dataset.from_list(dataset_rows([rows[i] for i in taken])),
            peft_config=_lora(what["adapter"]),
        )
        same = None if options.packing else same_tokens(trainer.train_dataset, [own[i] for i in taken])

        class Timing(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if what["tiny_warmup"]:
                    _tiny_warmup(trainer)
                reset_peak("cpu")
                clock.start()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                nonlocal peak
                tokens, _ = trainer.taken()
                control.should_training_stop = clock.tick(tokens)
                peak = peak_bytes("cpu")
                progress(f"{what['name']}: {tokens} tokens in {clock.seconds[-1]:.1f} s")

        trainer.add_callback(Timing())
        trainer.train()
    return {
        **clock.result(),
        "peak_bytes": peak,
        "options": {name: value for name, value in what["options"].items() if value != getattr(DEFAULT, name)},
        "examples": len(taken),
        "same_tokens": same,
    }


def _tiny_warmup(trainer: Any) -> None:
    """One forward and backward of the shortest row, in place of a whole step."""
    import torch

    row = min(trainer.train_dataset, key=lambda own: len(own["input_ids"]))
    own = {name: row[name] for name in ("input_ids", "labels", "seq_lengths") if name in row}
    trained = sum(label != -100 for label in own["labels"])
    trainer.current_gradient_accumulation_steps = 1
    trainer.training_step(trainer.model, trainer.data_collator([own]), torch.tensor(trained))
    trainer.model.zero_grad()
    trainer.taken()


def curve(what: dict[str, Any]) -> dict[str, Any]:
    """The loss of each step, starting from the adapter in `what["folder"]`, on the batches that Luthier takes."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    rows = training_rows("varied")
    taken = [i for batch in batches(len(rows), what["batch"], what["steps"]) for i in batch]
    base = AutoModelForCausalLM.from_pretrained(
        what["model"], dtype=getattr(torch, what["precision"]), attn_implementation="eager"
    )
    options = Options(bf16=what["precision"] == "bfloat16", checkpointing=False)
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        config = _config(
            options,
            what["batch"],
            what["steps"],
            folder,
            model_init_kwargs=None,
            learning_rate=what["learning_rate"],
            lr_scheduler_type="cosine",
            weight_decay=what["weight_decay"],
            max_grad_norm=what["max_grad_norm"],
        )
        trainer = _trainer_class()(
            model=PeftModel.from_pretrained(base, what["folder"], is_trainable=True),
            args=config,
            train_dataset=Dataset.from_list(dataset_rows([rows[i] for i in taken])),
            processing_class=AutoTokenizer.from_pretrained(what["model"]),
        )

        class Curve(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                losses.append(trainer.taken()[1])
                progress(f"trl: step {len(losses)} of {what['steps']}, loss {losses[-1]:.4f}")

        trainer.add_callback(Curve())
        trainer.train()
    return {"losses": losses}


def tune(
    workload: Workload,
    adapter: str,
    batch_size: int,
    model: str,
    timeout_s: float,
    steps: int,
    names: Sequence[str] = tuple(CANDIDATES),
) -> None:
    """Time each candidate and print the table, the fastest first."""
    from rich.console import Console
    from rich.table import Table

    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in names:
        options = CANDIDATES[name]
        what = {
            "name": name,
            "workload": workload,
            "adapter": adapter,
            "batch": batch_size,
            "model": model_folder(model),
            "options": dataclasses.asdict(options),
            "pace": dataclasses.asdict(Pace(warmup=1, steps=steps)),
            "tiny_warmup": False,
        }
        try:
            found[name] = run_side("peers_trl:train", what, timeout_s)
        except subprocess.TimeoutExpired:
            failed[name] = f"not done after {timeout_s:.0f} s"
        except RuntimeError:
            failed[name] = "failed"
    table = Table(title=f"TRL, {workload}, adapter: {adapter}, batches of {batch_size}")
    for heading in ("candidate", "useful tokens/s", "over all steps", "s a step", "peak memory"):
        table.add_column(heading, justify="left" if heading == "candidate" else "right")
    for name, result in sorted(found.items(), key=lambda item: -item[1]["overall"]):
        memory = f"{result['peak_bytes'] / 1e9:.2f} GB"
        table.add_row(name, f"{result['rate']:.0f}", f"{result['overall']:.0f}", f"{result['step_s']:.1f}", memory)
    for name, reason in failed.items():
        table.add_row(name, reason)
    Console().print(table)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description="Try which of TRL's options are fastest here.",
        epilog="Example: .venv/bin/python bench/peers_trl.py --tune --workload varied",
    )
    options.add_argument("--tune", action="store_true", required=True, help="time every candidate, print the table")
    options.add_argument("--workload", choices=("varied", "shared"), default="varied", help="default: varied")
    options.add_argument("--adapter", choices=("lora", "none"), default="lora", help="default: lora")
    options.add_argument(
        "--candidate", action="append", choices=tuple(CANDIDATES), help="only this one; may be repeated"
    )
    options.add_argument("--batch", type=int, default=8, help="examples a step (default: 8)")
    options.add_argument("--steps", type=int, default=3, help="timed steps a candidate, after one (default: 3)")
    options.add_argument("--model", default="smollm2-135m-instruct", help="a folder or a built-in name")
    options.add_argument("--timeout", type=float, default=600.0, help="seconds a candidate may take (default: 600)")
    return options


if __name__ == "__main__":
    given = parser().parse_args()
    tune(
        given.workload,
        given.adapter,
        given.batch,
        given.model,
        given.timeout,
        given.steps,
        given.candidate or tuple(CANDIDATES),
    )
    sys.exit(0)
