# SPDX-License-Identifier: Apache-2.0
"""Puts a report together as one HTML page that asks nobody for anything.

The page's own policy forbids every request, and every script and style but the page's own,
which are named by their digests: what a file holds is text, even where it looks like markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING

from pocketrec import __version__
from pocketrec_device.bench.cells import PEER
from pocketrec_device.bench_report import bench_tables, run_tables
from pocketrec_device.bench_report.bar_charts import draw_memory, draw_operators, draw_start
from pocketrec_device.bench_report.front_chart import draw_front
from pocketrec_device.bench_report.latency_chart import draw_latency
from pocketrec_device.bench_report.markup import Markup, element
from pocketrec_device.bench_report.page_parts import fold, show_figure, show_table
from pocketrec_device.bench_report.tables import bytes_text, time_text

if TYPE_CHECKING:
    from pocketrec_device.bench_report.content import Cell, Content

__all__ = ["html_page"]

_MAIN_OPERATIONS = (
    ("single", "observe_rerank"),
    ("session", "observe_rerank"),
    ("offline", "user"),
)
_OPERATION_TEXTS = {
    "prefill": "a whole history into an empty state",
    "step": "one event into the state",
    "score": "candidates against the state",
    "observe": "one event, as an app gives it",
    "rerank": "candidates, as an app gives them",
    "observe_rerank": "end to end: one event, then a ranking",
    "prefill_rerank": "end to end from nothing: a history, then a ranking",
    "start": "the older half of a session at once",
    "user": "one user: history in, ranking out",
}


def html_page(content: Content) -> str:
    """Return the page.

    Args:
        content: What it shows.
    """
    style, script = _resource("page.css"), _resource("page.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{_digest(style)}'",
            f"script-src 'sha256-{_digest(script)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    bundle = content.results[0]["bundle"]
    title = f"{bundle['model_name']} {bundle['version']}: benchmark"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="referrer", content="no-referrer"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", style),
    )
    body = element("body", *_body(content, title), element("script", script))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _resource(name: str) -> Markup:
    """Return a file of this package that stands in the page as it is."""
    return Markup(files("pocketrec_device.bench_report").joinpath(name).read_text(encoding="utf-8"))


def _digest(words: str) -> str:
    return base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()


def _body(content: Content, title: str) -> Iterable[Markup]:
    sections = [
        ("latency", "Latency", _latency(content)),
        ("quality", "Quality and bytes", _quality(content)),
        ("operators", "Where the time goes", _operators(content)),
        ("memory", "Memory and start", _memory(content)),
        ("layers", "Layers", _layers(content)),
        ("environment", "Environment and validity", _environment(content)),
    ]
    links = [element("a", name, href=f"#{key}") for key, name, _ in sections]
    yield element("a", "Skip to the content", class_="skip", href="#content")
    toggle = element("button", "Dark", id="theme", type="button", hidden=True)
    yield element("nav", *links, toggle, class_="bar-top", aria_label="Sections")
    yield _patterns()
    yield element(
        "main",
        element("h1", title),
        *_opening(content),
        *(
            element("section", element("h2", name), *parts, id=key, aria_label=name)
            for key, name, parts in sections
        ),
        element("footer", f"Made by pocketrec {__version__}, from the measurements alone."),
        id="content",
    )


def _patterns() -> Markup:
    hatching = element(
        "pattern",
        element("line", x1=0, y1=0, x2=0, y2=7, class_="hatch-line"),
        id="hatch",
        width=7,
        height=7,
        patternUnits="userSpaceOnUse",
        patternTransform="rotate(45)",
    )
    return element("svg", element("defs", hatching), class_="defs", aria_hidden="true")


def _opening(content: Content) -> Iterable[Markup]:
    result = content.results[0]
    hardware = result["environment"]["hardware"]
    run = result["run"]
    words = [str(run["label"]), str(run["started_at"]), str(hardware["cpu"])]
    yield element("p", " · ".join(word for word in words if word), class_="sub")
    doubtful = [cell for cell in content.cells if not cell.is_valid]
    n_cells = len(content.cells)
    if doubtful:
        link = element("a", "see why", href="#environment")
        words_of = f"{len(doubtful)} of {n_cells} cells are doubtful (marked ⚠): "
        yield element("p", words_of, link, ".", class_="warn", role="note")
    else:
        yield element("p", f"✓ All {n_cells} cells are valid.", class_="good")
    yield element("ul", *_cards(content), class_="cards")
    yield show_table(bench_tables.summary_table(content))


def _cards(content: Content) -> Iterable[Markup]:
    """Return the numbers that most readers come for."""
    for scenario, operation in _MAIN_OPERATIONS:
        cells = content.of_operation(scenario, operation)
        if cells:
            fastest = min(cells, key=lambda cell: _p50(cell, operation))
            number = f"{time_text(_p50(fastest, operation))} μs"
            yield _card(f"lowest median, {scenario}", number, fastest.name)
            break
    ranked = [cell for cell in content.cells if cell.record["quality"] is not None]
    if ranked:
        best = max(ranked, key=lambda cell: float(cell.record["quality"]["ndcg@10"]))
        quality = f"{best.record['quality']['ndcg@10']:.4f}"
        yield _card("best NDCG@10", quality, bench_tables.model_name(best))
    coded = [
        cell
        for cell in content.cells
        if cell.record["coded_bytes"] and cell.record["backend"] != PEER
    ]
    if coded:
        smallest = min(coded, key=lambda cell: float(cell.record["coded_bytes"]))
        n_bytes = bytes_text(smallest.record["coded_bytes"])
        yield _card("fewest bytes of weights", n_bytes, bench_tables.model_name(smallest))
    least = min(content.cells, key=lambda cell: float(cell.record["delta_rss_bytes"]))
    added = f"{least.record['delta_rss_bytes'] / 2**20:.1f} MiB"
    yield _card("least added memory", added, least.name)


def _card(what: str, number: str, who: str) -> Markup:
    return element(
        "li",
        element("span", what, class_="what"),
        element("span", number, class_="number"),
        element("span", who, class_="who"),
    )


def _p50(cell: Cell, operation: str) -> float:
    return float(cell.record["latency_us"][operation]["p50"])


def _latency(content: Content) -> Iterable[Markup]:
    yield element(
        "p",
        "Each row holds all samples of a cell: the higher the silhouette, the more calls took that "
        "long. Box: the middle half. Black stroke: median. Line: p5 to p95, then a tick at p99, or "
        "an arrow where that is beyond the axis. Dots below: the median of each process, so their "
        "spread is what a rerun may change.",
        class_="note",
    )
    known = sorted(content.operations, key=lambda each: each not in _MAIN_OPERATIONS)
    for scenario, operation in known:
        cells = content.of_operation(scenario, operation)
        figure = draw_latency(cells, operation, content.series)
        heading = [operation, element("span", f" · {scenario}", class_="sub")]
        if operation in _OPERATION_TEXTS:
            heading.append(element("span", f" · {_OPERATION_TEXTS[operation]}", class_="sub"))
        is_open = (scenario, operation) in _MAIN_OPERATIONS or len(known) == 1
        yield element(
            "details",
            element("summary", *heading),
            *([] if figure is None else [show_figure(figure)]),
            show_table(bench_tables.latency_table(cells, operation, scenario)),
            open=is_open,
        )


def _quality(content: Content) -> Iterable[Markup]:
    quality = bench_tables.quality_table(content)
    if quality is None:
        yield element("p", "No held-out users were ranked: bench run takes them with --cases.")
        return
    baselines = dict.fromkeys(str(result["baseline"]) for result in content.results)
    yield element(
        "p",
        f"Full ranking of held-out users' next items; baseline: {', '.join(baselines)}. Bars are "
        "95 % intervals over users; the dashed line joins what nothing smaller beats.",
        class_="note",
    )
    figure = draw_front(content)
    if figure is not None:
        yield show_figure(figure)
    yield show_table(quality)


def _operators(content: Content) -> Iterable[Markup]:
    if not content.profiles:
        yield element(
            "p",
            "No profile was given. Make one with ",
            element("code", "pocketrec debug profile --json profile.json"),
            " and give it to bench report beside the result.",
        )
        return
    tables = iter(bench_tables.operators_tables(content))
    for profile in content.profiles:
        for function in profile["functions"]:
            yield element("h3", f"{function['function']}, {bench_tables.profile_name(profile)}")
            yield show_figure(draw_operators(profile, function))
            yield fold("All operators", [show_table(next(tables))])


def _memory(content: Content) -> Iterable[Markup]:
    yield show_figure(draw_memory(content))
    yield show_table(bench_tables.memory_table(content))
    yield show_figure(draw_start(content))
    yield show_table(bench_tables.start_table(content))


def _layers(content: Content) -> Iterable[Markup]:
    tables = bench_tables.layers_tables(content)
    if not tables:
        yield element("p", "No cell tells what became of its layers.")
        return
    yield element(
        "p",
        "What a plan asks for, what is kept in memory, and what computes are three things. A "
        "fallback is a layer that is not kept and computed in the widths asked for.",
        class_="note",
    )
    for table in tables:
        n_fallbacks = sum(row[-1] == "yes" for row in table.rows)
        yield fold(
            f"{table.title}: {n_fallbacks} of {len(table.rows)} fall back", [show_table(table)]
        )


def _environment(content: Content) -> Iterable[Markup]:
    for table in (run_tables.flags_table(content), run_tables.skipped_table(content)):
        if table is not None:
            yield show_table(table)
    yield show_table(run_tables.runs_table(content))
    yield show_table(run_tables.environment_table(content))
