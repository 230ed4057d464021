"""Luthier's side: everything here that knows how Luthier trains and answers.

What is compared with a peer goes through the step `sft` as its users have it; only its sequences are handed in, and it
is left once enough steps are timed, before anything is validated or saved.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ceiling import ModelShape, training_flops
from sides import progress
from timing import Clock, Pace, timed_passes
from workloads import NEW_TOKENS, Row, few_shot_rows, labels, shared_rows, training_rows

if TYPE_CHECKING:
    from luthier.prompt.render import Renderer, TrainingSequence
    from luthier.types import Example

Adapter = Literal["lora", "none"]

RANK, ALPHA = 16, 32
SEED = 0
DEVICE = "cpu"  # what is measured here is the CPU, also where there is a GPU


class _EnoughError(Exception):
    """Leaves the training loop when all steps are timed."""


def model_folder(name: str) -> str:
    """The folder of a model: a folder, or a built-in name."""
    from luthier.model.find import find_model

    return str(find_model(name, Path()))


def renderer(folder: str) -> Renderer:
    from luthier.model.load import load_config, load_tokenizer, window_of
    from luthier.prompt.render import Renderer

    return Renderer(load_tokenizer(folder), window_of(load_config(folder)))


def example(row: Row) -> Example:
    from luthier.types import Example, Message, Place, Prompt

    turns = tuple(Message(role, content) for role, content in row.turns)  # type: ignore[arg-type]
    prompt = Prompt(row.id, "bench", turns, {}, row.id)
    return Example(prompt, row.completion, (row.completion,), None, Place("bench"))


def sequences(rows: Sequence[Row], folder: str) -> list[TrainingSequence]:
    """The rows as `sft` trains on them, loss on the answer."""
    from luthier.types import Wording

    render = renderer(folder)
    return [render.training(example(row), Wording(), ()) for row in rows]


def batches(examples: int, batch_size: int, steps: int) -> list[list[int]]:
    """The examples of each step, as the loop takes them."""
    from luthier.train.batches import epoch_steps

    return [epoch_steps(examples, batch_size, SEED, step) for step in range(steps)]


def fit(
    data: Sequence[TrainingSequence],
    folder: str,
    adapter: Adapter,
    batch_size: int,
    steps: int,
    log: Callable[[Mapping[str, float]], None],
    *,
    precision: str,
    **settings: Any,
) -> None:
    """The step `sft` with its own defaults, on sequences that are there already, for so many optimizer steps.

    Args:
        log: Takes the rows of metrics, one with `train/loss` at each step's end; may raise `_EnoughError`.
        settings: Settings of `sft` other than its defaults.
    """
    from luthier.infer.engine import Engine
    from luthier.progress import Silent
    from luthier.steps.base import StepContext
    from luthier.steps.lesson import Lesson
    from luthier.steps.sft import SftStep
    from luthier.types import Decoding, ModelRef, PromptedModel

    class Fit(SftStep):
        def sequences(
            self, predictor: Any, lesson: Any, engine: Any, seed: int, written: Any = None
        ) -> list[TrainingSequence]:
            return list(data)

    epochs = steps / -(-len(data) // batch_size)
    own = Fit(adapter=_settings(adapter), batch_size=batch_size, epochs=epochs, evaluations=1, patience=0, **settings)
    nothing = Lesson((), (), "")  # it serves validation, which comes behind the last step
    with tempfile.TemporaryDirectory() as work, contextlib.suppress(_EnoughError):
        context = StepContext(nothing, ModelRef(folder), Engine(DEVICE, precision), Path(work), SEED, Silent(), log)
        own.fit(PromptedModel(ModelRef(folder), Decoding()), context)


def _settings(adapter: Adapter) -> Any:
    return {"kind": "lora", "rank": RANK, "alpha": ALPHA} if adapter == "lora" else {"kind": adapter}


def save_fresh_adapter(folder: str, precision: str, to: str) -> None:
    """The adapter that `fit` begins with."""
    from luthier.model.adapter import add_lora
    from luthier.model.load import load_model
    from luthier.types import ModelRef

    base = load_model(ModelRef(folder), device=DEVICE, precision=precision)
    model = add_lora(base, rank=RANK, alpha=ALPHA, dropout=0.0, targets="all-linear", seed=SEED)
    model.save_pretrained(to)


def own_precision() -> str:
    from luthier.model.device import resolve_precision

    return resolve_precision("auto", DEVICE)


def timed_training(
    data: Sequence[TrainingSequence], folder: str, adapter: Adapter, batch_size: int, pace: Pace
) -> dict[str, Any]:
    """Train as `sft` does and time the steps; tokens are those of whole sequences, without padding."""
    from luthier.model.device import peak_bytes

    precision = own_precision()
    taken = batches(len(data), batch_size, pace.at_most)
    tokens = [sum(len(data[i].ids) for i in batch) for batch in taken]
    clock = Clock(pace)
    peak = 0

    def log(row: Mapping[str, float]) -> None:
        nonlocal peak
        if "train/loss" not in row:
            return
        done = clock.tick(tokens[len(clock.seconds)])
        peak = peak_bytes(DEVICE)
        if done:
            raise _EnoughError

    clock.start()
    fit(data, folder, adapter, batch_size, pace.at_most, log, precision=precision)
    return {**clock.result(), "peak_bytes": peak, "precision": precision}


def predict(what: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of a training, reckoned as `luthier check` does."""
    from luthier.infer.engine import Engine
    from luthier.steps.sft import SftStep
    from luthier.train.timing import forecast_seconds, training_speed
    from luthier.types import ModelRef

    data = sequences(training_rows(what["workload"]), what["model"])
    epochs = what["steps"] / -(-len(data) // what["batch"])
    own = SftStep(adapter=_settings(what["adapter"]), batch_size=what["batch"], epochs=epochs)
    engine, ref = Engine(DEVICE, own_precision()), ModelRef(what["model"])
    plan = own.memory_plan(own.training_shape(ref, data, engine), engine)
    settings = own.loop_settings(engine, plan, SEED)
    speed = training_speed(own.trainable_model(ref, engine, SEED), data, settings)
    return {"seconds": forecast_seconds(speed, data, settings), "bytes": plan.bytes}


def train_to_the_end(what: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of a whole training, its best weights kept and a checkpoint saved; nothing is validated.

    They are what `sft` reports.
    """
    from luthier.infer.engine import Engine
    from luthier.steps.sft import SftStep
    from luthier.train.loop import train as run
    from luthier.types import ModelRef

    data = sequences(training_rows(what["workload"]), what["model"])
    epochs = what["steps"] / -(-len(data) // what["batch"])
    own = SftStep(
        adapter=_settings(what["adapter"]), batch_size=what["batch"], epochs=epochs, evaluations=1, patience=0
    )
    engine, ref = Engine(DEVICE, own_precision()), ModelRef(what["model"])
    settings = own.loop_settings(engine, own.memory_plan(own.training_shape(ref, data, engine), engine), SEED)
    progress(f"luthier: {what['steps']} steps on {what['workload']} rows")
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(
            own.trainable_model(ref, engine, SEED),
            data,
            settings,
            validate=lambda live: {"loss": 0.0},
            score_of=lambda metrics: (0.0,),
            log=lambda row: None,
            folder=Path(folder),
        )
    return {"seconds": outcome.seconds, "bytes": outcome.peak_bytes, "steps": outcome.steps}


def profile(what: dict[str, Any]) -> dict[str, Any]:
    """Seconds of LoRA steps by what they are spent on, from torch's profiler."""
    import time

    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    from luthier.infer.engine import Engine
    from luthier.model.load import load_config
    from luthier.steps.sft import SftStep
    from luthier.train.batches import micro_batches
    from luthier.train.forward import Forward
    from luthier.train.optimizer import build_optimizer
    from luthier.train.step import take_step
    from luthier.types import ModelRef

    data = sequences(training_rows(what["workload"]), what["model"])
    own, engine = SftStep(adapter=_settings("lora"), batch_size=what["batch"]), Engine(DEVICE, own_precision())
    ref = ModelRef(what["model"])
    settings = own.loop_settings(engine, own.memory_plan(own.training_shape(ref, data, engine), engine), SEED)
    model = own.trainable_model(ref, engine, SEED)
    model.train()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, _ = build_optimizer(trainable, settings.learning_rate, settings, what["steps"])
    shape = ModelShape.of(load_config(what["model"]))
    progress(f"luthier: profile of {what['workload']}, batches of {what['batch']}")
    computed, seconds = 0, 0.0
    parts = dict.fromkeys(PARTS, 0.0)
    with Forward(model, settings.precision, checkpointing=settings.checkpointing) as forward:
        for number, members in enumerate(batches(len(data), what["batch"], what["steps"] + 1)):
            step = micro_batches([data[i] for i in members], settings.max_tokens)
            with profiler(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
                started = time.perf_counter()
                take_step(forward, step, trainable, optimizer, settings.max_grad_norm, "a profiled step")
                took = time.perf_counter() - started
            if number == 0:  # warms up
                continue
            seconds += took
            computed += sum(batch.computed for batch in step)
            for event in record.key_averages(group_by_input_shape=True):
                if event.key.startswith("aten::") and "foreach" not in event.key and "fused_adamw" not in event.key:
                    sizes = {size for one in event.input_shapes for size in one if isinstance(size, int)}
                    parts[_part(event.key, sizes, shape)] += event.self_cpu_time_total / 1e6
    parts["Python, dispatch, the optimizer"] = seconds - sum(parts.values())
    weights = sum(inputs * outputs * count for inputs, outputs, count in shape.linear_layers().values())
    steps = what["steps"]
    return {
        "seconds": seconds / steps,
        "computed": computed / steps,
        "gflop": 4 * weights * computed / steps / 1e9,
        "parts": {part: own / steps for part, own in parts.items()},
        "precision": settings.precision,
    }


PARTS = (
    "layers' products",
    "LoRA's products",
    "the head's products",
    "attention",
    "norms, activations, rotations, conversions, sums",
    "Python, dispatch, the optimizer",
)


def _part(operation: str, sizes: set[int], shape: ModelShape) -> str:
    """What an operation on tensors of these sizes is part of."""
    name = operation.removeprefix("aten::")
    if name in ("mm", "addmm", "addmm_"):
        return PARTS[2] if shape.vocabulary in sizes else PARTS[1] if RANK in sizes else PARTS[0]
    if name in ("bmm", "_softmax", "_softmax_backward_data", "masked_fill_"):
        return PARTS[3]
    return PARTS[4]


def train(what: dict[str, Any]) -> dict[str, Any]:
    """Time training on a workload, and count what a token of it takes."""
    from luthier.model.load import load_config

    data = sequences(training_rows(what["workload"]), what["model"])
    progress(f"luthier: {what['workload']}, batches of {what['batch']}")
    result = timed_training(data, what["model"], what["adapter"], what["batch"], Pace(**what["pace"]))
    lengths, trained = [len(s.ids) for s in data], [sum(s.trained) for s in data]
    flops = training_flops(
        ModelShape.of(load_config(what["model"])), lengths, trained, RANK if what["adapter"] == "lora" else None
    )
    return {
        **result,
        "flops_per_token": flops / sum(lengths),
        "mean_tokens": sum(lengths) / len(lengths),
        "trained_share": sum(trained) / sum(lengths),
    }


def curve(what: dict[str, Any]) -> dict[str, Any]:
    """The loss of each step, starting from an adapter that is left in `what["folder"]` for the peer."""
    data = sequences(training_rows("varied"), what["model"])
    save_fresh_adapter(what["model"], what["precision"], what["folder"])
    losses: list[float] = []

    def log(row: Mapping[str, float]) -> None:
        if "train/loss" in row:
            losses.append(row["train/loss"])
            progress(f"luthier: step {len(losses)} of {what['steps']}, loss {losses[-1]:.4f}")
            if len(losses) == what["steps"]:
                raise _EnoughError

    fit(
        data,
        what["model"],
        "lora",
        what["batch"],
        what["steps"],
        log,
        precision=what["precision"],
        learning_rate=what["learning_rate"],
        schedule="cosine",
        warmup=0.0,
        weight_decay=what["weight_decay"],
        max_grad_norm=what["max_grad_norm"],
    )
    return {"losses": losses}


def sweep(what: dict[str, Any]) -> dict[str, Any]:
    """Useful tokens a second for every length of the shared part and every number of branches."""
    pace = Pace(**what["pace"])
    rates: dict[str, dict[str, float]] = {}
    for shared in what["shared"]:
        rates[str(shared)] = {}
        for branches in what["branches"]:
            data = branching_sequences(what["model"], shared, branches * pace.at_most)
            result = timed_training(data, what["model"], "lora", branches, pace)
            rates[str(shared)][str(branches)] = result["overall"]
            progress(f"luthier: {shared} shared tokens, {branches} branches: {result['overall']:.0f} useful tokens/s")
    return {"rates": rates}


def branching_sequences(folder: str, shared: int, count: int) -> list[TrainingSequence]:
    """So many sequences that have exactly their first `shared` tokens in common, a message and its intent behind."""
    from luthier.prompt.render import TrainingSequence
    from luthier.types import Wording

    render = renderer(folder)
    shots, rows = few_shot_rows()
    # A text long enough to be cut at any length: the instruction with two dozen worked examples.
    many = [example(row) for row in (*shots, *rows[:16])]
    beginning = render.training(example(rows[-1]), Wording(), many).ids[:shared]
    assert len(beginning) == shared
    own = [render.training(example(row), Wording(), ()) for row in shared_rows()]
    instruction = common_length([s.ids for s in own])
    found = []
    for number in range(count):
        whole = own[number % len(own)]
        ids, trained = beginning + whole.ids[instruction:], (False,) * shared + whole.trained[instruction:]
        found.append(TrainingSequence(f"{whole.id}-{number}", ids, trained))
    return found


def common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    columns = zip(*sequences, strict=False)
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))


def few_shot_prompts(folder: str) -> list[tuple[int, ...]]:
    """Token ids of the prompts with eight shots."""
    from luthier.types import Wording

    render = renderer(folder)
    shots, rows = few_shot_rows()
    own = [example(shot) for shot in shots]
    return [render.prompt(example(row).prompt, Wording(), own, NEW_TOKENS).ids for row in rows]


def choice_prompts(folder: str) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Token ids of the prompts without shots, and of the 77 labels as answers."""
    from luthier.types import Wording

    render = renderer(folder)
    rows = [example(row) for row in shared_rows()]
    answers = [render.completion(rows[0].prompt.messages, label) for label in labels()]
    longest = max(map(len, answers))
    return [render.prompt(row.prompt, Wording(), (), longest).ids for row in rows], answers


def answer(what: dict[str, Any]) -> dict[str, Any]:
    """Time greedy answers of exactly `NEW_TOKENS` tokens to the prompts with eight shots."""
    import torch

    from luthier.infer.engine import Engine
    from luthier.infer.generate import generate
    from luthier.model.device import peak_bytes, reset_peak
    from luthier.types import Decoding, ModelRef

    prompts = few_shot_prompts(what["model"])
    tokenizer = renderer(what["model"]).tokenizer

    def answers(engine: Engine, own: Sequence[Sequence[int]]) -> list[str]:
        # No token ends an answer, so that every side makes the same number of them.
        decoding = Decoding("generate", max_new_tokens=NEW_TOKENS)
        with torch.inference_mode():
            found = generate(
                engine.load(ModelRef(what["model"])),
                own,
                tokenizer=tokenizer,
                end_ids=frozenset(),
                decoding=decoding,
            )
        return [one.text for one in found]

    engine = Engine(DEVICE, own_precision())
    engine.load(ModelRef(what["model"]))
    reset_peak(DEVICE)
    clock, texts = timed_passes(
        "luthier, answers", Pace(**what["pace"]), prompts, what["prompts"], lambda own: answers(engine, own)
    )
    peak = peak_bytes(DEVICE)
    engine.release()
    exact = answers(Engine(DEVICE, "float32"), prompts[: what["checked"]])
    return {
        **clock.result(),
        "peak_bytes": peak,
        "precision": own_precision(),
        "texts": texts,
        "texts_float32": exact,
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "shared_tokens": common_length(prompts),
    }


def choose(what: dict[str, Any]) -> dict[str, Any]:
    """Time the log-probabilities of all labels after each prompt."""
    import torch

    from luthier.infer.choose import label_logprobs
    from luthier.infer.engine import Engine
    from luthier.model.device import peak_bytes, reset_peak
    from luthier.types import ModelRef

    prompts, answers = choice_prompts(what["model"])
    model = Engine(DEVICE, own_precision()).load(ModelRef(what["model"]))
    reset_peak(DEVICE)

    def sums(own: Sequence[tuple[int, ...]]) -> list[list[float]]:
        with torch.inference_mode():
            return label_logprobs(model, own, answers)

    clock, logprobs = timed_passes("luthier, choices", Pace(**what["pace"]), prompts, what["prompts"], sums)
    return {
        **clock.result(),
        "peak_bytes": peak_bytes(DEVICE),
        "precision": own_precision(),
        "logprobs": logprobs,
        "prompt_tokens": sum(map(len, prompts)) / len(prompts),
        "label_tokens": sum(map(len, answers)),
    }
