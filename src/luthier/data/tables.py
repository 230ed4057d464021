"""Rows of Parquet files and of data sets on the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from luthier.data.files import Row, Table, read_bytes, table
from luthier.errors import DataError
from luthier.types import Place, Split

HUB_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test",),
}


def rows_of_parquet(path: Path, file: str) -> Table:
    """The rows of a Parquet file.

    Raises:
        DataError: It is no Parquet, or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = read_bytes(path, file)
    try:
        read = pq.read_table(pa.BufferReader(data))
        rows = read.to_pylist()
    except (OSError, pa.ArrowException) as error:
        what = "damaged Parquet" if data.startswith(b"PAR1") else "no Parquet"
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file}: {what} ({first}).\nWrite the file again, or set format to what it is.") from error
    names = list(read.column_names)
    if len(set(names)) < len(names):
        raise DataError(f"{file}: two columns have one name (found: {', '.join(names)}). Rename one of them.")
    return table(file, [Row(row, Place(file, number)) for number, row in enumerate(rows, 1)])


def hub_splits(name: str, config: str | None) -> dict[Split, str]:
    """The Hub's own names of the splits that a data set has, among train, validation and test.

    Raises:
        DataError: It cannot be had, or has no train split.
    """
    found = list(_load(name, config, None))
    given = {ours: next((n for n in names if n in found), None) for ours, names in HUB_NAMES.items()}
    if given["train"] is None:
        raise DataError(
            f"{name}: no split named train on the Hub (found: {', '.join(found)}).\nSet hub_split to the one to "
            "train on, or to {train: …, test: …}."
        )
    return {ours: theirs for ours, theirs in given.items() if theirs is not None}


def rows_of_hub(name: str, config: str | None, split: str) -> Table:
    """The rows of one split of a data set on the Hub. Code that comes with a data set is never run."""
    rows = _load(name, config, split)
    file = f"{name}/{split}"
    return table(file, [Row(dict(row), Place(file, number)) for number, row in enumerate(rows, 1)])


def _load(name: str, config: str | None, split: str | None):  # type: ignore[no-untyped-def]  # datasets has no types
    import datasets

    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets, huggingface_hub, fsspec and pyarrow each raise their own
        tried = f"load_dataset({name!r}, {config!r}, split={split!r})"
        offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE")
        state = (
            "The Hub is switched off (HF_HUB_OFFLINE); unset it, or download the data set before."
            if offline
            else "Check the name, hub_config and hub_split, the network, and your login if the data set is private."
        )
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{name}: no file of this name, and the Hugging Face Hub does not give it: {tried}: "
            f"{type(error).__name__}: {reason}\n{state}"
        ) from error
