"""Cut the E2E restaurant descriptions into train.csv and test.csv, no meaning representation on both sides.

    python studies/data/make_e2e_nlg.py path/to/devset.csv studies/data/e2e_nlg

`devset.csv` has several references for each meaning representation (`mr`). Training gets one of them, drawn at random;
the test file keeps them all, so that an answer can be compared with every wording that people gave.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

NUM_TRAIN, NUM_TEST, SEED = 304, 200, 0


def main(source: Path, folder: Path) -> None:
    references: dict[str, list[str]] = {}
    with open(source, encoding="utf-8-sig", newline="") as handle:
        for row in csv.DictReader(handle):
            references.setdefault(row["mr"], []).append(row["ref"].strip())
    draw = random.Random(SEED)
    drawn = draw.sample(list(references), NUM_TRAIN + NUM_TEST)
    train = [(mr, draw.choice(references[mr])) for mr in drawn[:NUM_TRAIN]]
    test = [(mr, ref) for mr in drawn[NUM_TRAIN:] for ref in dict.fromkeys(references[mr])]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train.csv", train), ("test.csv", test)):
        with open(folder / name, "w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(("mr", "ref"))
            writer.writerows(rows)
        print(f"{folder / name}: {len({mr for mr, _ in rows})} meaning representations, {len(rows)} rows")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
