# SPDX-License-Identifier: Apache-2.0
"""Which faults ``serve --chaos`` makes, and how often: parsed from one line of text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import check_integer

__all__ = ["ChaosSettings", "parse_chaos"]

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)")
_MAX_DELAY_S = 60.0
_SHARES = ("drop", "corrupt", "stale")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosSettings:
    """What goes wrong on purpose.

    Args:
        delay_s: Least and most seconds each call waits, uniformly.
        drop: Share of calls that break off: before the work, after it, or within a stream.
        corrupt: Share of messages with plans, chunks or metadata that get a bit flipped.
        stale: Share of answers that are an old publication's timestamp, or an old plan.
        seed: Of the dice; the same calls in the same order meet the same faults.

    Raises:
        ConfigError: A share is not 0 to 1, or a delay not 0 to 60 s, the least first.
    """

    delay_s: tuple[float, float] = (0.0, 0.0)
    drop: float = 0.0
    corrupt: float = 0.0
    stale: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        least, most = self.delay_s
        if not 0 <= least <= most <= _MAX_DELAY_S:
            raise ConfigError(f"delay: expected 0 s to 60 s, the least first, got {self.delay_s}")
        for name in _SHARES:
            share = getattr(self, name)
            if not math.isfinite(share) or not 0 <= share <= 1:
                raise ConfigError(f"{name}: expected a share from 0 to 1, got {share}")
        check_integer(self.seed, field="seed")

    def __str__(self) -> str:
        """Return what :func:`parse_chaos` reads."""
        least, most = self.delay_s
        parts = [f"delay={least * 1000:g}ms..{most * 1000:g}ms"] if most else []
        parts += [f"{name}={getattr(self, name):g}" for name in _SHARES if getattr(self, name)]
        return ",".join([*parts, f"seed={self.seed}"])


def parse_chaos(text: str) -> ChaosSettings:
    """Read faults such as "delay=50ms..200ms,drop=0.05,corrupt=0.01,stale=on,seed=7".

    Raises:
        ConfigError: A part is not ``name=value`` with a known name, comes twice, or has no such
            value.
    """
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        field = f"{name}_s" if name == "delay" else name
        if not equals or name not in _READERS or field in values:
            known = ", ".join(_READERS)
            raise ConfigError(f"expected each of {known} at most once as name=value, got {part!r}")
        values[field] = _READERS[name](name, value)
    if not values.keys() & {field.name for field in fields(ChaosSettings)} - {"seed"}:
        raise ConfigError(f"expected at least one fault, such as 'drop=0.05', got {text!r}")
    return ChaosSettings(**values)


def _delay(name: str, text: str) -> tuple[float, float]:
    least, dots, most = text.partition("..")
    return _seconds(name, least), _seconds(name, most if dots else least)


def _seconds(name: str, text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{name}: expected a time such as '200ms' or '1.5s', got {text!r}")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _share(name: str, text: str) -> float:
    try:
        return float({"on": "1", "off": "0"}.get(text, text))
    except ValueError as exc:
        raise ConfigError(
            f"{name}: expected 'on', 'off' or a share from 0 to 1, got {text!r}"
        ) from exc


def _integer(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


_READERS: Mapping[str, Callable[[str, str], object]] = MappingProxyType(
    {"delay": _delay, "drop": _share, "corrupt": _share, "stale": _share, "seed": _integer}
)
