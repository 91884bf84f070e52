# SPDX-License-Identifier: Apache-2.0
"""The commands ``device ...``: one store, one device.

For trying things out and for fleets of small machines; an app embeds ``Runtime``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import ConfigError
from pocketrec_device.backends import BACKENDS
from pocketrec_device.extras import require_libraries
from pocketrec_device.facts import DeviceFacts
from pocketrec_device.ranking import MODES, Mode, Ranking
from pocketrec_device.runtime import Runtime
from pocketrec_device.settings import COMPUTE_CHOICES, EngineSettings
from pocketrec_device.status import PairStatus, Status, read_status
from pocketrec_device.store import Store
from pocketrec_device.tls import Tls
from pocketrec_quantization.levels import SPEED_PRESETS

if TYPE_CHECKING:
    from pocketrec_device.lowering.capabilities import Capability

__all__ = ["bootstrap", "capabilities", "rerank", "rollback", "status", "sync"]

Command = TypeVar("Command", bound=Callable[..., Any])

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MAX_LIST_BYTES = 64 * 2**20

_store_option = click.option(
    "--store", type=_FOLDER, required=True, help="Folder of the device's store."
)
_backend_option = click.option(
    "--backend",
    type=click.Choice(sorted(BACKENDS)),
    default="onnxruntime",
    show_default=True,
    help="What computes.",
)


_kept_option = click.option(
    "--max-kept-bytes",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="What bundles beyond the current and the previous one may take.",
)


def _creation_options(command: Command) -> Command:
    """Add what a store needs to know when it is made."""
    model = click.option("--model", help="Model line to follow; needed once, to make the store.")
    root = click.option(
        "--root", type=_FILE, help="TUF root metadata to trust; needed once, before a sync."
    )
    return model(root(command))


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_store_option
@_creation_options
@_kept_option
@_backend_option
@json_option
def bootstrap(
    *,
    bundle: Path,
    store: Path,
    model: str | None,
    root: Path | None,
    max_kept_bytes: int,
    backend: str,
    json_path: str | None,
) -> None:
    """Install the bundle in folder BUNDLE without a network."""
    runtime = _runtime(Store(store, max_kept_bytes=max_kept_bytes), model, root, backend)
    is_new = runtime.bootstrap(bundle)
    shown = runtime.status()
    emit(
        {"is_bundle_new": is_new, "status": asdict(shown)},
        render=lambda console: _draw_status(console, shown),
        json_path=json_path,
    )


@click.command()
@click.argument("target", metavar="HOST:PORT")
@_store_option
@_creation_options
@click.option("--subject", default="", help="Pseudonym of the user; empty = everybody.")
@click.option("--average-bits", type=float, help="Bits per coded weight; default: the server's.")
@click.option(
    "--history", default="", metavar="A,B,...|@FILE", help="Events a personal plan is made from."
)
@click.option("--app-version", default="", help="What to tell of the app, e.g. 2.14.1.")
@click.option("--locale", default="", help="What to tell of the user's language, e.g. de-AT.")
@click.option("--tag", "tags", multiple=True, help="What to call this device; may be repeated.")
@click.option("--tell-memory", is_flag=True, help="Tell how much memory this system has.")
@click.option("--report-status", is_flag=True, help="Tell how the update went; rollouts need it.")
@click.option("--deadline", type=float, default=10.0, show_default=True, help="Seconds per call.")
@click.option("--tls-ca", type=_FILE, help="PEM of the authorities to trust; default: system's.")
@click.option("--tls-cert", type=_FILE, help="PEM of this device's certificate chain (mutual TLS).")
@click.option("--tls-key", type=_FILE, help="PEM of the certificate's private key.")
@click.option("--insecure", is_flag=True, help="Plain text also beyond this machine.")
@_kept_option
@_backend_option
@json_option
def sync(
    *,
    target: str,
    store: Path,
    model: str | None,
    root: Path | None,
    subject: str,
    average_bits: float | None,
    history: str,
    app_version: str,
    locale: str,
    tags: tuple[str, ...],
    tell_memory: bool,
    report_status: bool,
    deadline: float,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    insecure: bool,
    max_kept_bytes: int,
    backend: str,
    json_path: str | None,
) -> None:
    """Fetch the newest bundle and plan from the server at HOST:PORT.

    A history stays on this device: it becomes the user embedding that a personal plan is
    made from, which needs the bundle of an earlier sync.
    """
    facts = DeviceFacts(
        app_version=app_version, locale=locale, tags=tags, is_memory_told=tell_memory
    )
    kept = Store(store, max_kept_bytes=max_kept_bytes)
    runtime = _runtime(kept, model, root, backend, facts, report_status=report_status)
    if history:
        runtime.load()
        events = read_ids(history)
        _remark_on_events(len(events), runtime.observe_many(events))
    report = runtime.sync(
        target,
        subject=subject,
        average_bits=average_bits,
        tls=_tls(tls_ca, tls_cert, tls_key, is_insecure=insecure),
        deadline_s=deadline,
    )
    result = asdict(report)
    emit(result, render=lambda console: _draw_facts(console, result), json_path=json_path)


@click.command()
@_store_option
@json_option
def status(store: Path, json_path: str | None) -> None:
    """Show what the store holds."""
    shown = read_status(Store(store), int(time.time()))
    emit(asdict(shown), render=lambda console: _draw_status(console, shown), json_path=json_path)


@click.command()
@_store_option
@click.option("--history", default="", metavar="A,B,...|@FILE", help="Events, oldest first.")
@click.option("--candidates", required=True, metavar="A,B,...|@FILE", help="What to rank.")
@click.option("-k", "n_best", type=int, default=10, show_default=True, help="How many to show.")
@click.option("--exclude-seen", is_flag=True, help="Leave out what the history holds.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="pointwise",
    show_default=True,
    help="Score each candidate once, or build a slate pick by pick.",
)
@click.option("--threads", type=int, default=1, show_default=True, help="Threads per call.")
@click.option(
    "--compute",
    type=click.Choice(COMPUTE_CHOICES),
    default="auto",
    show_default=True,
    help="Kernels of ONNX Runtime.",
)
@click.option(
    "--preset",
    type=click.Choice(sorted(SPEED_PRESETS)),
    default="balanced",
    show_default=True,
    help="What the tiers of the plan mean in bits.",
)
@click.option("--strict", is_flag=True, help="Refuse layers not computed in their widths.")
@_backend_option
@json_option
def rerank(
    *,
    store: Path,
    history: str,
    candidates: str,
    n_best: int,
    exclude_seen: bool,
    mode: Mode,
    threads: int,
    compute: str,
    preset: str,
    strict: bool,
    backend: str,
    json_path: str | None,
) -> None:
    """Rank candidates for a history, offline.

    A list is given as A,B,C or as @FILE, a file with one item id per line ('@-' is stdin).
    """
    with Runtime.open(
        store, backend=backend, threads=threads, compute=compute, preset=preset, strict=strict
    ) as runtime:
        events = read_ids(history)
        n_known = runtime.observe_many(events)
        ranking = runtime.rerank(read_ids(candidates), n_best, mode=mode, exclude_seen=exclude_seen)
        problem = runtime.problem
    _remark_on_unknown(len(events), n_known, ranking)
    result = {
        "items": list(ranking.items),
        "scores": [score if math.isfinite(score) else None for score in ranking.scores],
        "n_events": len(events),
        "n_events_known": n_known,
        "problem": problem,
    }
    emit(result, render=lambda console: _draw_ranking(console, ranking), json_path=json_path)


@click.command()
@_store_option
@click.option("--bundle", default="", help="Digest of an older bundle that was kept.")
@_kept_option
@_backend_option
@json_option
def rollback(
    *, store: Path, bundle: str, max_kept_bytes: int, backend: str, json_path: str | None
) -> None:
    """Go back to the bundle and plan that ran before.

    A sync does not bring the bundle back that was left; a newer one ends that.
    """
    runtime = _runtime(Store(store, max_kept_bytes=max_kept_bytes), None, None, backend)
    runtime.rollback(bundle)
    shown = runtime.status()
    emit(asdict(shown), render=lambda console: _draw_status(console, shown), json_path=json_path)


@click.command()
@json_option
def capabilities(json_path: str | None) -> None:
    """Show which kernels ONNX Runtime has on this device, computed here and now."""
    require_libraries("onnxruntime", purpose="the backend 'onnxruntime'", extras="device")
    from pocketrec_device.lowering.capabilities import probe_capabilities

    found = probe_capabilities()
    emit(
        {"capabilities": [_without_nan(asdict(each)) for each in found]},
        render=lambda console: _draw_capabilities(console, found),
        json_path=json_path,
    )


def read_ids(text: str) -> list[str]:
    """Return the item ids in ``A, B, C``, or in the lines of the file in ``@FILE``.

    Args:
        text: What the user typed; ``@-`` reads stdin.

    Raises:
        ConfigError: The file is larger than 64 MiB or no UTF-8.
        OSError: It cannot be read.
    """
    if not text.startswith("@"):
        return [item_id for item_id in map(str.strip, text.split(",")) if item_id]
    with click.open_file(text[1:], "rb") as file:
        data = file.read(_MAX_LIST_BYTES + 1)
    if len(data) > _MAX_LIST_BYTES:
        raise ConfigError(f"{text[1:]}: expected at most {_MAX_LIST_BYTES} bytes of item ids")
    try:
        lines = (line.removesuffix("\r") for line in data.decode().split("\n"))
        return [line for line in lines if line]
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{text[1:]}: expected item ids in UTF-8, one per line") from exc


def _remark_on_events(n_events: int, n_known: int) -> None:
    if n_known < n_events:
        absent = f"{n_events - n_known} of {n_events} events are not in the item table"
        stderr_console().print(absent)


def _remark_on_unknown(n_events: int, n_known: int, ranking: Ranking) -> None:
    """Say on stderr what the item table lacks: a ranking does not show it."""
    console = stderr_console()
    _remark_on_events(n_events, n_known)
    if not n_known:
        console.print("without a known event, candidates stay in the order given")
    n_last = sum(not math.isfinite(score) for score in ranking.scores)
    if n_last:
        console.print(f"{n_last} of these candidates are not in the item table: they come last")


def _runtime(
    store: Store,
    model: str | None,
    root: Path | None,
    backend: str,
    facts: DeviceFacts | None = None,
    *,
    report_status: bool = False,
) -> Runtime:
    """Return a runtime that has loaded nothing; makes the store when asked to."""
    if model is not None:
        store.create(model, None if root is None else root.read_bytes())
    elif root is not None:
        raise ConfigError("--root is for a store that is being made; pass --model too")
    settings = EngineSettings(backend=backend, tuning_file=store.tuning_file)
    return Runtime(store, settings, facts=facts, report_status=report_status)


def _tls(*files: Path | None, is_insecure: bool) -> Tls | None:
    """Return what authority, certificate and key come to; None leaves it to the address."""
    authority, certificate, key = (None if file is None else file.read_bytes() for file in files)
    if not is_insecure and not any(files):
        return None
    return Tls(
        enabled=not is_insecure,
        root_certificates=authority,
        private_key=key,
        certificate_chain=certificate,
    )


def _draw_facts(console: Console, facts: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), Text(str(value)))
    console.print(table)


def _without_nan(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in facts.items()
    }


def _draw_capabilities(console: Console, found: Sequence[Capability]) -> None:
    table = Table("kernel", "bits", "plan as", "usable", "error", "1 x 256 x 192", box=None)
    for each in found:
        usable = "yes" if each.is_usable else f"no: {each.problem}"
        cells = (each.kernel, str(each.bits), each.form, usable)
        table.add_row(*map(Text, cells), f"{each.error:.1e}", f"{each.step_us:.1f} us")
    console.print(table)


def _draw_ranking(console: Console, ranking: Ranking) -> None:
    table = Table("rank", "item", "score", box=None)
    for position, (item, score) in enumerate(
        zip(ranking.items, ranking.scores, strict=True), start=1
    ):
        table.add_row(str(position), Text(item), f"{score:.4f}")  # an id is never markup
    console.print(table)


def _draw_status(console: Console, shown: Status) -> None:
    console.print(Text(f"model {shown.model}, device {shown.device_id or 'not registered'}"))
    table = Table("", "bundle", "version", "items", "plan", "subject", "bits", "expires", box=None)
    for name, pair in (("current", shown.current), ("previous", shown.previous)):
        if pair is not None:
            table.add_row(name, *map(Text, _pair_row(pair)))
    if table.row_count:
        console.print(table)
        _draw_item_tables(console, shown)
    elif not shown.problems:
        console.print("nothing is installed yet: sync, or bootstrap from a bundle's folder")
    if shown.is_held_back:
        console.print("a bundle is held back after a rollback, until a newer one is published")
    for problem in shown.problems:
        console.print(Text(f"problem: {problem}"), soft_wrap=True)


def _draw_item_tables(console: Console, shown: Status) -> None:
    for name, pair in (("current", shown.current), ("previous", shown.previous)):
        if pair is None:
            continue
        widths = " + ".join(str(bits) for bits in sorted({each.bits for each in pair.codebooks}))
        console.print(
            f"{name} item table: version {pair.items_version}, {pair.n_items:,} items over "
            f"{pair.n_item_rows:,} rows of {widths or 8} bits in {len(pair.codebooks) or 1} "
            f"codebooks, {_bytes(pair.item_bytes)}, and of ids {_bytes(pair.item_id_bytes)}",
            soft_wrap=True,
        )


def _bytes(n_bytes: int | None) -> str:
    return "unreadable" if n_bytes is None else f"{n_bytes:,} bytes"


def _pair_row(pair: PairStatus) -> list[str]:
    expiry = time.strftime("%Y-%m-%d", time.gmtime(pair.expires_at_s))
    return [
        pair.bundle[:12],
        str(pair.bundle_version),
        str(pair.n_items),
        f"{pair.planner} v{pair.plan_version}",
        pair.subject or "everybody",
        f"{pair.effective_bits:.2f}",
        f"{expiry}{' (expired)' if pair.is_expired else ''}" if pair.expires_at_s else "never",
    ]
