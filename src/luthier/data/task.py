"""The whole way from a task's settings to its examples in three splits, with a report of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path

from luthier.data.audit import conflicts, repeated, separate
from luthier.data.examples import (
    BadRow,
    Built,
    build_examples,
    check_bad,
    dropped_report,
    merge_references,
    with_labels,
    with_spellings,
    with_unique_ids,
)
from luthier.data.files import Table
from luthier.data.hidden import unused_columns
from luthier.data.labels import Labels, alike_labels, cannot_be_split, separator_of, spelling_key, split_labels
from luthier.data.near import part_near, warnings_of_near
from luthier.data.read import read_splits
from luthier.data.settings import SPLITS, TaskSettings
from luthier.data.split import cut, label_counts, size_of, subsample
from luthier.errors import DataError
from luthier.types import Example, Split, Task

Splits = dict[Split, tuple[Example, ...]]

_FEW_TESTS = 20


def load_task(name: str, settings: TaskSettings, root: Path, allow_code: bool, seed: int) -> Task:
    """Read, check, deduplicate and split the examples of a task.

    Args:
        root: Folder of the study file; relative paths resolve against it.
        allow_code: Whether a `reader` may run.
        seed: Decides splits and subsamples, unless `split.seed` is set.

    Raises:
        DataError: Whatever keeps the data from being a task; the message names place and remedy.
        CodeRefused: The settings name a reader, and code is not allowed.
    """
    decoding = settings.decoding(seed)
    seed = seed if settings.split.seed is None else settings.split.seed
    tables = read_splits(settings, root, allow_code)
    built = {split: _joined([build_examples(t, name, settings) for t in tables[split]]) for split in tables}
    for split, part in built.items():
        _check_any(part, split)
    spelled: Counter[str] = Counter() if settings.labels is None else _label_spellings(built["train"], settings)
    if settings.join_labels:
        named = settings.labels if isinstance(settings.labels, tuple) else ()
        spellings = {spelling_key(own): own for own in (*sorted(spelled, key=lambda own: spelled[own]), *named)}
        built = {s: with_spellings(part, spellings, settings.label_separator or "") for s, part in built.items()}
    labels = _labels(built["train"], settings, tables["train"][0].file)
    if labels:
        built = {split: with_labels(part, labels) for split, part in built.items()}
    bad = [row for part in built.values() for row in part.bad]
    if settings.on_bad_row == "stop":
        check_bad(bad)
    ids = with_unique_ids([part.examples for part in built.values()])
    across = separate(dict(zip(built, ids, strict=True)), settings.duplicates)
    _check_filled(across.splits, name)
    warnings = [] if settings.labels is None else _warnings_of_labels(labels, across.splits["train"])
    warnings += _warnings_of_alike(spelled, settings.join_labels)
    splits = _cut_missing(dict(across.splits), settings, seed, warnings)

    duplicates = across.duplicates + _within(splits, settings)
    near = part_near(splits, settings.near_duplicates)
    splits = dict(near.splits)
    warnings += warnings_of_near(near.duplicates, splits)
    if settings.merge_references:
        splits |= {split: merge_references(splits[split]) for split in splits if split != "train"}
    warnings += [warning for split in SPLITS for warning in conflicts(split, splits[split])]
    splits, limited = _limited(splits, settings, seed)
    _check_filled(splits, name)
    _check_labels_left(splits["train"], labels, name)
    if turns := sum(part.left_out_turns for part in built.values()):
        warnings.append(f"turns after the last answer of their conversation, left out: {turns}")
    warnings += _warnings_of_splits(splits, labels)
    report = {
        **_report_of_reading(tables, bad),
        "unused_columns": _unused(tables, settings),
        "duplicates": duplicates,
        "near_duplicates": near.duplicates,
        "splits": {split: _report_of_split(splits[split], labels) for split in SPLITS},
        "limited": limited,
        "truncated": 0,
        "warnings": warnings,
    }
    metrics = settings.all_metrics()
    return Task(
        name=name,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        labels=labels,
        metric=metrics[0],
        metrics=metrics,
        metric_options=settings.metric_options,
        decoding=decoding,
        report=report,
        phrasings=settings.phrasings,
        label_separator=separator_of(labels),
    )


def _joined(parts: Sequence[Built]) -> Built:
    return Built(
        tuple(example for part in parts for example in part.examples),
        tuple(row for part in parts for row in part.bad),
        sum(part.left_out_turns for part in parts),
    )


def _check_any(part: Built, split: Split) -> None:
    if not part.examples:
        first = part.bad[0]
        raise DataError(
            f"{first.place}: none of the {len(part.bad)} rows for {split} makes an example; here, {first.reason}.\n"
            "Correct the rows, or the settings prompt, completion and format."
        )


def _labels(train: Built, settings: TaskSettings, file: str) -> tuple[str, ...]:
    if settings.labels is None:
        return ()
    separator = settings.label_separator or ""
    if settings.labels != "auto":
        return Labels(settings.labels, separator) if separator else settings.labels
    found = tuple(
        sorted({label for example in train.examples for label in split_labels(example.completion, separator)})
    )
    if len(found) == 1:
        raise DataError(
            f"{file}: all {len(train.examples)} training examples have one label, {found[0]!r}; there is nothing to "
            "learn.\nGive examples of at least two labels, or set completion to the column that tells them apart."
        )
    if not separator:
        return found
    if label := cannot_be_split(found, separator):
        raise DataError(
            f"{file}: label {label!r} runs into label_separator {separator!r} where another stands behind it.\n"
            "Correct the rows, or separate labels by something else."
        )
    return Labels(found, separator)


def _cut_missing(given: Splits, settings: TaskSettings, seed: int, warnings: list[str]) -> Splits:
    """Cut test and validation from train where they are not given; fractions are of train as it is given."""
    splits = dict(given)
    once = settings.merge_references
    whole = given["train"]
    total = len({example.prompt.fingerprint for example in whole}) if once else len(whole)
    names: tuple[Split, ...] = ("test", "validation")
    for name in names:
        if name in given:
            if settings.split.is_changed(name):
                warnings.append(f"split.{name} has no effect: the data bring a {name} split")
            continue
        size = settings.split.test if name == "test" else settings.split.validation
        count = size_of(size, total)
        parts = cut(
            splits["train"],
            count,
            seed,
            what=name,
            stratify=settings.split.stratify,
            prompts_count_once=once,
            separator=settings.label_separator or "",
        )
        splits["train"], splits[name] = parts.kept, parts.cut
        got = len({example.prompt.fingerprint for example in parts.cut}) if once else len(parts.cut)
        if got != count:
            warnings.append(f"split.{name} asks for {count} examples; what belongs together makes it {got}")
    return splits


def _within(splits: Splits, settings: TaskSettings) -> list[dict[str, object]]:
    """What stands twice within each split, for the report."""
    found = []
    for split in SPLITS:
        merged = settings.merge_references and split != "train"
        found += repeated(split, splits[split], "merged into one example" if merged else "kept")
    return found


def _limited(splits: Splits, settings: TaskSettings, seed: int) -> tuple[Splits, dict[str, dict[str, int]]]:
    small: Splits = {}
    limited: dict[str, dict[str, int]] = {}
    for split, examples in splits.items():
        limit = getattr(settings.limit, split)
        separator = settings.label_separator or ""
        small[split] = examples if limit is None else subsample(examples, limit, seed, split, separator=separator)
        if len(small[split]) < len(examples):
            limited[split] = {"from": len(examples), "to": len(small[split])}
    return small, limited


def _check_filled(splits: Mapping[Split, Sequence[Example]], name: str) -> None:
    for split, examples in splits.items():
        if not examples:
            raise DataError(
                f"task {name}: no {split} example is left after dropping bad rows and what splits share.\n"
                "Correct the rows, or give other data."
            )


def _check_labels_left(train: Sequence[Example], labels: Sequence[str], name: str) -> None:
    if labels and len(label_counts(train)) == 1:
        raise DataError(
            f"task {name}: only the label {train[0].label!r} is left in train, of {len(labels)}; there is nothing to "
            "learn.\nGive more examples of the other labels (or raise limit.train, if it is set)."
        )


def _label_spellings(train: Built, settings: TaskSettings) -> Counter[str]:
    """How many training examples have each label as it is spelled."""
    separator = settings.label_separator or ""
    return Counter(own for example in train.examples for own in split_labels(example.completion, separator))


def _warnings_of_alike(spelled: Mapping[str, int], joined: bool) -> list[str]:
    alike = alike_labels(spelled)
    if not alike:
        return []
    shown = "; ".join(" and ".join(f"{label!r} ({spelled[label]})" for label in own) for own in alike[:3])
    shown += "; …" if len(alike) > 3 else ""
    if joined:
        return [f"labels that differ in case, white space or Unicode form alone were joined: {shown}"]
    return [
        f"labels that differ in case, white space or Unicode form alone are taken for different ones: {shown}. If they "
        "are the same, join_labels: true joins them"
    ]


def _warnings_of_labels(labels: Sequence[str], train: Sequence[Example]) -> list[str]:
    if len(labels) > 10 and len(labels) > len(train) / 2:
        return [f"{len(labels)} labels for {len(train)} training examples: is this an open-ended task (labels: null)?"]
    return []


def _warnings_of_splits(splits: Mapping[Split, Sequence[Example]], labels: Sequence[str]) -> list[str]:
    warnings = []
    for split in SPLITS:
        counts = label_counts(splits[split], separator_of(labels))
        absent = [label for label in labels if label not in counts]
        if absent:
            shown = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
            warnings.append(f"{split}: {len(absent)} of {len(labels)} labels have no example there: {shown}")
    n = len(splits["test"])
    if n < _FEW_TESTS:
        # normal approximation of a proportion at its widest, 0.5
        reach = round(100 * 1.96 * sqrt(0.25 / n))
        warnings.append(
            f"test: only {n} examples; one of them is {100 / n:.0f} points, and a score near 50% is uncertain by "
            f"±{min(reach, 50)} points, so only very large differences can show"
        )
    return warnings


def _unused(tables: Mapping[Split, Sequence[Table]], settings: TaskSettings) -> list[str]:
    """Columns of any file that nothing of the task uses."""
    every = dict.fromkeys(column for own in tables.values() for table in own for column in table.columns)
    return unused_columns(list(every), settings)


def _report_of_reading(tables: Mapping[Split, Sequence[Table]], bad: Sequence[BadRow]) -> dict[str, object]:
    files = [
        {"file": table.file, "rows": len(table.rows), "split": split}
        for split, group in tables.items()
        for table in group
    ]
    read = sum(len(table.rows) for group in tables.values() for table in group)
    return {"files": files, "read": read, "dropped": dropped_report(bad)}


def _report_of_split(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, object]:
    counts = label_counts(examples, separator_of(labels))
    return {"n": len(examples), "labels": {label: counts[label] for label in labels}}
