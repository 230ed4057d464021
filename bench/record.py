"""Write the kept results into bench/RESULTS.md, so that no figure there is typed by hand.

.venv/bin/python bench/record.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import answer_few_shot
import choose_label
import outcome
import studies
import train_full_varied
import train_lora_shared
import train_lora_varied

PAGE = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- FIGURES -->", "<!-- /FIGURES -->"
STUDIES_BEGIN, STUDIES_END = "<!-- STUDIES -->", "<!-- /STUDIES -->"

AIMS: dict[str, Mapping[str, float]] = {
    train_lora_varied.NAME: train_lora_varied.TARGETS,
    train_full_varied.NAME: train_full_varied.TARGETS,
    **{f"{train_lora_shared.NAME}_{batch}": aims for batch, aims in train_lora_shared.TARGETS.items()},
    answer_few_shot.NAME: answer_few_shot.TARGETS,
    choose_label.NAME: choose_label.TARGETS,
}
CEILING_AIM = 0.65
MEMORY_AIM = 1 / 3

Results = Mapping[str, Mapping[str, Any]]


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """The kept JSON lines, by benchmark."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return {one["benchmark"]: one for one in found}


def with_figures(page: str, results: Results, kept: Sequence[Mapping[str, Any]]) -> str:
    """The page with everything between its marks written anew: the benchmarks, and the studies that were kept."""
    page = _between(page, BEGIN, END, figures(results))
    return _between(page, STUDIES_BEGIN, STUDIES_END, studies.sections(kept))


def _between(page: str, begin: str, end: str, text: str) -> str:
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def figures(results: Results) -> str:
    """All that was measured, as Markdown; what was not has a dash."""
    parts = [measured_with(results), "### Aims\n\n" + aims_table(results)]
    for name in AIMS:
        if name in results:
            parts.append(f"### {name}\n\n" + sides_table(results[name]))
    if (own := results.get("loss_curves")) is not None:
        parts.append("### Loss curves\n\n" + _notes(own) + "\n\n![The two curves](results/loss_curves.svg)")
    if (own := results.get("shared_sweep")) is not None:
        parts.append("### Shared length and branches\n\n" + own_table(own) + "\n\n" + _notes(own))
        parts.append("![Speed by shared length and branches](results/shared_sweep.svg)")
    for name, title in (
        ("step_profile", "Where the time of a step goes"),
        ("forecast", "Forecast and measured"),
        ("retrieval_quality", "How well passages are found"),
        ("document_instructions", "Documents that carry instructions"),
        ("retrieval_latency", "An index of passages"),
        ("rivals", "What needs no training of a language model"),
        ("verdict_simulation", "How often the verdict is right"),
    ):
        if (own := results.get(name)) is not None:
            parts.append(f"### {title}\n\n" + own_table(own) + "\n\n" + _notes(own))
    return "\n\n".join(parts)


def measured_with(results: Results) -> str:
    """Date, machine and versions; once for each combination."""
    frames: dict[str, list[str]] = {}
    for name, own in results.items():
        versions = ", ".join(f"{package} {version}" for package, version in own["versions"].items())
        machine = own["machine"]
        frame = (
            f"{own['date']}; {machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} threads, "
            f"{machine['memory_gb']:.0f} GB, {machine['system']}; Luthier's own precision {machine['own_precision']}; "
            f"{versions}"
        )
        frames.setdefault(frame, []).append(name)
    if not frames:
        return "Nothing has been measured yet."
    return "\n".join(f"- {frame} ({', '.join(names)})" for frame, names in frames.items())


def aims_table(results: Results) -> str:
    rows = []
    for name, aims in AIMS.items():
        for peer, aim in aims.items():
            ratio = results[name]["ratios"][peer] if name in results else None
            rows.append(
                (f"{name}: times as fast as {peer}", f"{aim:g}×", _cell(ratio, outcome.times), _at_least(ratio, aim))
            )
    share = results.get(train_lora_varied.NAME, {}).get("ceiling_share", {}).get("luthier")
    rows.append(
        (
            f"{train_lora_varied.NAME}: share of the GEMM ceiling",
            f"{CEILING_AIM:.0%}",
            _cell(share, "{:.0%}".format),
            _at_least(share, CEILING_AIM),
        )
    )
    for name, aims in AIMS.items():
        if "trl-tuned" in aims:
            memory = results[name]["memory"]["trl-tuned"] if name in results else None
            reached = None if memory is None else memory <= MEMORY_AIM
            measure = f"{name}: peak memory as a share of trl-tuned's"
            rows.append((measure, "33%", _cell(memory, "{:.0%}".format), _yes(reached)))
    return _table(("measure", "aim", "measured", "reached"), rows)


def sides_table(own: Mapping[str, Any]) -> str:
    heading = ("", own["unit"], "Luthier is", "aim", "a step", "timed steps", "peak memory", "of ceiling")
    table = _table(heading, [outcome.side_cells(own, name) for name in own["sides"]])
    return f"{table}\n\n{_notes(own)}"


def own_table(own: Mapping[str, Any]) -> str:
    """The tables of a benchmark, each with its title as a sentence in front."""
    return "\n\n".join(
        f"{title[0].upper()}{title[1:]}:\n\n" + _table([str(cell) for cell in rows[0]], rows[1:])
        for title, rows in own["tables"].items()
    )


def _notes(own: Mapping[str, Any]) -> str:
    return "\n".join(f"- {note}" for note in own["notes"])


def _cell(value: float | None, shown: Any) -> str:
    return "—" if value is None else shown(value)


def _at_least(value: float | None, aim: float) -> str:
    return _yes(None if value is None else value >= aim)


def _yes(reached: bool | None) -> str:
    return "—" if reached is None else "yes" if reached else "no"


def _table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(heading) + " |", "|---" + "|---:" * (len(heading) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description="Write the results kept in bench/results into bench/RESULTS.md.",
        epilog="Example: .venv/bin/python bench/record.py",
    )


if __name__ == "__main__":
    parser().parse_args()
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_figures(page, read_results(outcome.RESULTS), studies.read_studies()), encoding="utf-8")
