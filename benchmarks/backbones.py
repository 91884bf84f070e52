# SPDX-License-Identifier: Apache-2.0
"""Writes docs/results/backbones.md from the records of full trainings.

usage: python -m benchmarks.backbones

A record is what ``pocketrec train --json`` writes; they lie in benchmarks/results/backbones,
named after the data set. Published numbers stand here, with their sources.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Published", "main", "page"]

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "backbones"
PAGE = ROOT / "docs" / "results" / "backbones.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What others report on the same file under the same protocol.

    Attributes:
        title: Name of the data set.
        file: How to name the file in the command.
        results: Model, HR@10, NDCG@10 and source.
    """

    title: str
    file: str
    results: tuple[tuple[str, float, float, str], ...]


PUBLISHED = {
    "ml-1m": Published(
        title="MovieLens-1M",
        file="ml-1m/sequences.txt",
        results=(
            ("SASRec+, whole softmax", 0.3152, 0.1821, "Klenitskiy and Vasilev 2023, repository"),
            ("gSASRec", 0.3003, 0.1726, "asash/gSASRec-pytorch, repository"),
            ("SASRec, BCE with one negative", 0.2500, 0.1341, "Klenitskiy and Vasilev 2023"),
        ),
    ),
    "beauty": Published(
        title="Amazon Beauty, 5-core",
        file="amazon-beauty/sequences.txt",
        results=(
            ("SASRec, sampled softmax, tuned", 0.0921, 0.0531, "eSASRec, repository"),
            ("SASRec, BCE with one negative", 0.0668, 0.0354, "RecBoard, mean of 5 seeds"),
        ),
    ),
}


def page(records: dict[str, dict[str, Any]]) -> str:
    """Return the page for the given records, by data set."""
    lines = [
        "# Backbones: full trainings",
        "",
        "Leave-one-out, the last event is the test target; ranked among **all** items, items",
        "of the history left out, ties broken at random. Epoch and step size were decided on",
        "validation alone. One seed each, so no claim is made about small differences; for scale,",
        "five published seeds of SASRec on Beauty span .0346 to .0371 (RecBoard). The runs were",
        "interrupted and resumed, which does not change their course. The files are those that",
        "SASRec (MovieLens-1M) and S3-Rec (Beauty) publish, as sequences in order of time; they",
        "are for research and not part of pocketrec. `python -m",
        "benchmarks.backbones` writes this page from `benchmarks/results/backbones/`.",
        "",
    ]
    for name, record in records.items():
        lines += _section(name, record)
    return "\n".join(lines)


def _section(name: str, record: dict[str, Any]) -> list[str]:
    published = PUBLISHED[name]
    own, popular = record["test"]["sasrec"], record["test"]["popularity"]
    low, high = own["ndcg@10_interval"]
    sampled = record["test_1_to_99"]["sasrec"]
    versions = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
    rows = [
        (
            f"| **SASRec, pocketrec** | **{own['hr@10']:.4f}** | **{own['ndcg@10']:.4f}** "
            f"({low:.4f} to {high:.4f}) | this page |"
        ),
        (
            f"| most popular, pocketrec | {popular['hr@10']:.4f} | {popular['ndcg@10']:.4f} "
            "| this page |"
        ),
        *(f"| {m} | {hr:.4f} | {n:.4f} | {source} |" for m, hr, n, source in published.results),
    ]
    return [
        f"## {published.title}",
        "",
        f"{record['n_users']:,} users, {record['n_items']:,} items, {record['n_events']:,} events.",
        "",
        "```sh",
        (
            f"pocketrec train --data {published.file} --preset {record['preset']} "
            f"--seed {record['seed']} --out runs/{name}"
        ),
        "```",
        "",
        "| model | HR@10 | NDCG@10 (95 % interval) | source |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"Also: HR@5 {own['hr@5']:.4f}, NDCG@5 {own['ndcg@5']:.4f}; the target among 99 unseen",
        f"items drawn at random: HR@10 {sampled['hr@10']:.4f}, NDCG@10 {sampled['ndcg@10']:.4f};",
        f"validation NDCG@10 {record['validation_ndcg@10']:.4f}.",
        "",
        (
            f"Epoch {record['best_epoch']} of {record['epochs']}, {record['training_minutes']:.0f} "
            f"minutes of training on {record['threads']} threads ({record['machine']}), shared with"
        ),
        f"other work; stopped: {record['stopped']}. Versions: {versions}.",
        "",
    ]


def main() -> None:
    """Read the records, write the page."""
    records = {
        name: json.loads((RECORDS / f"{name}.json").read_text())
        for name in PUBLISHED
        if (RECORDS / f"{name}.json").exists()
    }
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(records))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
