# SPDX-License-Identifier: Apache-2.0
"""The facts that a cohort rule may ask of a device: how values are written, and compared."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.records import DeviceRecord
from pocketrec_quantization.limits import MAX_INTEGER

__all__ = ["FACTS", "Fact", "Value"]

Value: TypeAlias = str | int | tuple[int, ...]
"""A text, a number of bytes, or the numbers of a version."""

_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})*")
_BYTES = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,3}))?([KMGT]iB|B)?")
_UNITS = {"TiB": 2**40, "GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "B": 1}
_SUBTAGS = re.compile(r"[A-Za-z0-9]{1,8}(?:-[A-Za-z0-9]{1,8})*")
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that a device may have told.

    Args:
        read: Returns what a literal means; raises ``ConfigError`` when it means nothing.
        write: Returns the literal of a value.
        told: Returns what a device told of it: nothing, one value, or several.
        is_same: Whether what was told (first) is what a rule asks for (second).
        is_ordered: Whether one value may be below another.
    """

    read: Callable[[str], Value]
    write: Callable[[Any], str]
    told: Callable[[DeviceRecord], tuple[Value, ...]]
    is_same: Callable[[Any, Any], bool] = operator.eq
    is_ordered: bool = False

    def holds(self, device: DeviceRecord, sign: str, value: Value) -> bool:
        """Whether anything that the device told compares like that.

        Args:
            device: Whose facts.
            sign: ``=``, ``<``, ``<=``, ``>`` or ``>=``.
            value: From ``read``.
        """
        compare = _ORDERS.get(sign, self.is_same)
        return any(compare(told, value) for told in self.told(device))


def _read_version(literal: str) -> Value:
    if not _VERSION.fullmatch(literal):
        raise ConfigError("expected a version such as 2.14.1")
    return _version(literal)


def _version(text: str) -> tuple[int, ...]:
    """Return the numbers that a version starts with; zeros at the end mean nothing."""
    found = _VERSION.match(text)
    numbers = [] if found is None else [int(number) for number in found[0].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _told_version(device: DeviceRecord) -> tuple[Value, ...]:
    version = _version(device.app_version)
    return (version,) if version else ()


def _read_bytes(literal: str) -> Value:
    found = _BYTES.fullmatch(literal)
    if found is None:
        raise ConfigError("expected a number of bytes such as 4GiB, 512MiB or 1073741824")
    whole, fraction, unit = found[1], found[2] or "", _UNITS[found[3] or "B"]
    scale: int = 10 ** len(fraction)
    n_bytes, rest = divmod(int(whole + fraction) * unit, scale)
    if rest or n_bytes > MAX_INTEGER:
        raise ConfigError(f"expected a whole number of bytes, at most {MAX_INTEGER}")
    return n_bytes


def _write_bytes(n_bytes: int) -> str:
    unit = next(name for name, size in _UNITS.items() if n_bytes % size == 0)
    return str(n_bytes) if unit == "B" or not n_bytes else f"{n_bytes // _UNITS[unit]}{unit}"


def _read_locale(literal: str) -> Value:
    if not _SUBTAGS.fullmatch(literal):
        raise ConfigError("expected a language tag such as de or de-AT")
    return literal


def _is_within(told: str, asked: str) -> bool:
    """Whether a locale starts with the subtags of another one."""
    return f"{told.lower()}-".startswith(f"{asked.lower()}-")


def _is_backend(told: str, asked: str) -> bool:
    """Whether a backend is that one, by name, or by name and version."""
    return asked in (told, told.partition(" ")[0])


def _read_text(literal: str) -> Value:
    if not literal:
        raise ConfigError("expected a text that is not empty")
    return literal


def _told(text: str) -> tuple[Value, ...]:
    return (text,) if text else ()


FACTS: Mapping[str, Fact] = {
    "app_version": Fact(
        read=_read_version,
        write=lambda numbers: ".".join(map(str, numbers)),
        told=_told_version,
        is_ordered=True,
    ),
    "backend": Fact(
        read=_read_text,
        write=str,
        told=lambda device: _told(device.backend),
        is_same=_is_backend,
    ),
    "locale": Fact(
        read=_read_locale,
        write=str,
        told=lambda device: _told(device.locale),
        is_same=_is_within,
    ),
    "os": Fact(
        read=_read_text,
        write=str,
        told=lambda device: _told(device.os),
        is_same=lambda told, asked: told.casefold() == asked.casefold(),
    ),
    "ram": Fact(
        read=_read_bytes,
        write=_write_bytes,
        told=lambda device: (device.ram_bytes,) if device.ram_bytes else (),
        is_ordered=True,
    ),
    "tag": Fact(read=_read_text, write=str, told=lambda device: device.tags),
}
"""By the name that a rule gives them."""
