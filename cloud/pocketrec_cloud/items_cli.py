# SPDX-License-Identifier: Apache-2.0
"""The command ``bundle replace-items``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pocketrec.console import emit, json_option, stderr_console
from pocketrec_cloud.item_replacement import ReplacementConfig, replace_items
from pocketrec_cloud.results import draw_parts
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.item_table import ItemTable

__all__ = ["bundle_replace_items"]


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("items", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the bundle and its company.",
)
@click.option("--version", type=click.IntRange(1), help="Of the bundle; default: one more.")
@click.option("--table-version", type=click.IntRange(1), help="Of the table; default: one more.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@json_option
def bundle_replace_items(
    *,
    bundle: Path,
    items: Path,
    out: Path,
    version: int | None,
    table_version: int | None,
    seed: int,
    json_path: str | None,
) -> None:
    """Make the bundle in folder BUNDLE again with the item table in the file ITEMS.

    Devices fetch the table and what proves it, and nothing else; their plans stay valid.
    The files that lie beside BUNDLE come along as far as they still fit.
    """
    old = BundleFolder.open(bundle)
    config = ReplacementConfig(
        created_at_s=int(time.time()), version=version, table_version=table_version, seed=seed
    )
    with stderr_console().status("checking the bundle with the new table"):
        table = ItemTable.from_bytes(items.read_bytes())
        made = replace_items(old, table, out=out, config=config)
    known = {part.sha256 for part in old.manifest.parts}
    parts = {part.name: part.length_bytes for part in made.manifest.parts}
    new = [part.name for part in made.manifest.parts if part.sha256 not in known]
    result = {
        "folder": made.path,
        "digest": made.digest,
        "model_digest": made.model_digest,
        "version": made.manifest.version,
        "table_version": made.manifest.items.version,
        "bundle_bytes": sum(parts.values()),
        "parts": parts,
        "new_parts": new,
        "new_bytes": sum(parts[name] for name in new),
    }
    emit(result, render=lambda console: draw_parts(console, parts, made), json_path=json_path)
