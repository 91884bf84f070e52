# SPDX-License-Identifier: Apache-2.0
"""What a store holds, and what a sync did to it.

Reading the status builds nothing, reads of each bundle the manifest and the head of the item
table, and takes no lock: it is safe while others write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec.errors import ArtifactError, StoreError
from pocketrec_device.updater import is_expired
from pocketrec_quantization.budget import effective_bits
from pocketrec_quantization.bundle import ITEMS, BundleFolder
from pocketrec_quantization.item_table_file import TableBytes, table_bytes
from pocketrec_quantization.item_table_info import CodebookInfo
from pocketrec_quantization.plan import decode_plan, plan_sizes
from pocketrec_quantization.tensor_header import MOST_HEAD_BYTES

if TYPE_CHECKING:
    from pocketrec_device.state import Pair
    from pocketrec_device.store import Store

__all__ = ["PairStatus", "Status", "SyncReport", "read_status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStatus:
    """One installed pair.

    Args:
        bundle: Digest of the bundle, in hex.
        bundle_version: Of the bundle.
        n_items: Items its table knows.
        items_version: Of the item table.
        n_item_rows: Rows of all its codebooks.
        codebooks: Their rows, widths and columns; none for one of 8 bits.
        item_bytes: What embeddings take in the table's file: codes, scales and row numbers;
            None = it cannot be read.
        item_id_bytes: What the ids of items take there, likewise.
        plan: Digest of the plan, in hex.
        plan_version: 0 = the bundle's default plan.
        planner: What made the plan.
        subject: Whom it is for; empty = everybody.
        effective_bits: Bits per coded weight, scales included.
        header_bytes: Of the plan file, prelude included.
        payload_bytes: Of the plan file: the 2-bit codes.
        signature_bytes: Of the plan file.
        expires_at_s: Unix seconds; 0 = never.
        is_expired: Whether that time has passed. An expired plan keeps ranking; the next
            sync asks for another.
    """

    bundle: str
    bundle_version: int
    n_items: int
    items_version: int
    n_item_rows: int
    codebooks: tuple[CodebookInfo, ...]
    item_bytes: int | None
    item_id_bytes: int | None
    plan: str
    plan_version: int
    planner: str
    subject: str
    effective_bits: float
    header_bytes: int
    payload_bytes: int
    signature_bytes: int
    expires_at_s: int
    is_expired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a store holds.

    Args:
        model: The model line it follows.
        device_id: The name the server gave this device; empty before the first sync.
        server: Where it synced last; empty before the first sync.
        current: What runs, or None if nothing is installed or it cannot be read.
        previous: What ``rollback`` returns to, or None likewise.
        is_held_back: Whether a rolled-back bundle is being kept away.
        kept: Digests in hex of the bundles of older pairs that are still here, the one used
            last first; ``rollback`` may name one.
        problems: What cannot be read and why.
    """

    model: str
    device_id: str
    server: str
    current: PairStatus | None
    previous: PairStatus | None
    is_held_back: bool
    kept: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What a sync did.

    Args:
        bundle_version: Of the bundle that runs now.
        plan_version: Of the plan that runs now; 0 = the bundle's default plan.
        is_bundle_new: Whether another bundle runs than before.
        is_plan_new: Whether another plan runs than before.
        is_held_back: Whether the published bundle was left alone after a rollback.
        parts_downloaded: Parts that came over the network.
        parts_reused: Parts that were on the device already.
        bytes_downloaded: Bytes of parts that came over the network now.
        bytes_resumed: Bytes of those parts that an earlier sync had left behind.
    """

    bundle_version: int
    plan_version: int
    is_bundle_new: bool
    is_plan_new: bool
    is_held_back: bool
    parts_downloaded: int
    parts_reused: int
    bytes_downloaded: int
    bytes_resumed: int


def read_status(store: Store, now_s: int) -> Status:
    """Return what a store holds.

    Args:
        store: Read only; no lock is needed.
        now_s: Unix seconds.

    Raises:
        StoreError: There is no store, or its state is damaged.
        StoreAccessError: Its state may not be read.
    """
    state = store.load()
    now_s = max(now_s, state.time_floor_s)
    problems: list[str] = []
    pairs: list[PairStatus | None] = []
    for pair in (state.current, state.previous):
        try:
            pairs.append(None if pair is None else _read_pair(store, pair, now_s))
        except (ArtifactError, StoreError, OSError) as exc:
            pairs.append(None)
            problems.append(str(exc))
    return Status(
        model=state.model,
        device_id=state.device_id,
        server=state.server,
        current=pairs[0],
        previous=pairs[1],
        is_held_back=bool(state.held_back),
        kept=tuple(dict.fromkeys(pair.bundle for pair in store.kept_pairs(state))),
        problems=tuple(problems),
    )


def _read_pair(store: Store, pair: Pair, now_s: int) -> PairStatus:
    bundle, data = store.open_bundle(pair.bundle), store.read_plan(pair.plan)
    plan, sizes, items = decode_plan(data), plan_sizes(data), bundle.manifest.items
    item_bytes = _item_bytes(bundle)
    return PairStatus(
        bundle=pair.bundle,
        bundle_version=bundle.manifest.version,
        n_items=items.n_items,
        items_version=items.version,
        n_item_rows=items.n_rows,
        codebooks=items.codebooks,
        item_bytes=None if item_bytes is None else item_bytes.embeddings,
        item_id_bytes=None if item_bytes is None else item_bytes.ids,
        plan=pair.plan,
        plan_version=plan.version,
        planner=plan.planner,
        subject=plan.subject,
        effective_bits=effective_bits(plan.layers, plan.widths),
        header_bytes=sizes.header_bytes,
        payload_bytes=sizes.payload_bytes,
        signature_bytes=sizes.signature_bytes,
        expires_at_s=plan.expires_at_s,
        is_expired=is_expired(plan, now_s),
    )


def _item_bytes(bundle: BundleFolder) -> TableBytes | None:
    try:
        with bundle.part_path(ITEMS).open("rb") as file:
            # Its digest was compared when it was installed, and is again when it is loaded.
            head = file.read(MOST_HEAD_BYTES)
        return table_bytes(head, bundle.manifest.part(ITEMS).length_bytes)
    except (ArtifactError, OSError):
        return None  # loading the pair says what is damaged
