# SPDX-License-Identifier: Apache-2.0
"""Finds other runtimes to measure, and lets them convert the float model.

A peer is named in one of three ways: as installed packages call it in the entry-point group
``pocketrec.peers``; as ``module:Name``; or as ``path/to/file.py:Name``, for a runtime that
somebody adds in one file. ``Name`` is a peer, or a class that makes one without arguments.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pocketrec.errors import BackendError, ConfigError, MissingExtraError, PocketRecError
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.peers import PEER_GROUP, FloatNetwork, Peer

if TYPE_CHECKING:
    from pocketrec_device.bench.cells import Variant
    from pocketrec_device.bench.config import BenchConfig
    from pocketrec_quantization.bundle import BundleFolder

__all__ = ["convert_peer", "load_peer", "peer_names"]

# SyntaxError and ValueError: a file that is no Python, a module without a name.
_IMPORT_ERRORS = (ImportError, AttributeError, OSError, SyntaxError, TypeError, ValueError)


def peer_names() -> tuple[str, ...]:
    """Return the names that installed packages give to peers, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=PEER_GROUP)}))


def load_peer(spec: str) -> Peer:
    """Return a peer by its name, its module or its file.

    Args:
        spec: See the module.

    Raises:
        ConfigError: There is no such peer, or it cannot be imported or made.
        MissingExtraError: Its library is not installed; the message says how to.
    """
    peer = _made(spec)
    absent = [name for name in getattr(peer, "requires", ()) if not _is_installed(name)]
    if absent:
        raise MissingExtraError(f"the peer {spec!r} needs {', '.join(absent)}; run: {peer.install}")
    if not all(hasattr(peer, name) for name in ("name", "convert", "load")):
        raise ConfigError(
            f"{spec}: expected a peer with name, convert and load, found {type(peer).__name__}"
        )
    return cast("Peer", peer)


def convert_peer(bundle: BundleFolder, variant: Variant, folder: Path, config: BenchConfig) -> Path:
    """Let a variant's peer convert the float model of a bundle, and return its file.

    Args:
        bundle: What to convert.
        variant: With a peer and a float twin.
        folder: Where to write.
        config: How many candidates there are per call.

    Raises:
        ConfigError: There is no such peer, or it cannot express the architecture.
        MissingExtraError: Its library is not installed.
        ArtifactError: The bundle or the float twin cannot be used.
        BackendError: The peer fails in its own words.
    """
    if variant.peer is None or variant.float_twin is None:
        raise ConfigError(f"{variant.name}: expected a peer and a float twin")
    twin = FloatTwin.from_bytes(variant.float_twin.read_bytes())
    n_candidates = min(config.n_candidates, bundle.manifest.items.n_items)
    network = FloatNetwork.of(bundle, twin, n_candidates=n_candidates)
    out = folder / f"{variant.name}.model"
    peer = load_peer(variant.peer)
    with _stdout_on_stderr():
        _convert(peer, network, out, variant.peer)
    return out


def _convert(peer: Peer, network: FloatNetwork, out: Path, spec: str) -> None:
    try:
        peer.convert(network, out)
    except (PocketRecError, OSError):
        raise
    except Exception as exc:  # somebody else's code raises what it likes
        raise BackendError(f"the peer {spec!r} cannot convert: {exc!r}") from exc


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """Keep results on stdout clean: native converters print there whenever they like."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _made(spec: str) -> Any:
    try:
        peer = _named(spec) if ":" not in spec else _imported(spec)
        return peer() if isinstance(peer, type) else peer
    except PocketRecError:
        raise
    except _IMPORT_ERRORS as exc:
        raise ConfigError(f"{spec}: expected module:Name or file.py:Name of a peer: {exc}") from exc


def _named(name: str) -> object:
    found = [entry for entry in entry_points(group=PEER_GROUP) if entry.name == name]
    if not found:
        raise ConfigError(
            f"expected one of the peers {peer_names()}, module:Name or file.py:Name, got {name!r}"
        )
    return found[0].load()


def _imported(spec: str) -> object:
    source, _, name = spec.rpartition(":")
    module = _file(Path(source)) if source.endswith(".py") else import_module(source)
    found: object = getattr(module, name)
    return found


def _file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"pocketrec_peer_{path.stem}", path.resolve())
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of the package that it is in
        return False
