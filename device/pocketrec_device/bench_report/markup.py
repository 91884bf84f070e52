# SPDX-License-Identifier: Apache-2.0
"""Elements of HTML and SVG, in which text is text: whatever a file holds is escaped."""

from __future__ import annotations

from html import escape

__all__ = ["Markup", "element", "join", "text"]


class Markup(str):
    """Text that is markup already; only this module makes it."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a value as text of a page, unless it is markup."""
    return value if isinstance(value, Markup) else Markup(escape(str(value), quote=True))


def join(parts: object) -> Markup:
    """Return the parts of an iterable one after the other, each as :func:`text` has it."""
    return Markup("".join(text(part) for part in parts))  # type: ignore[attr-defined]


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: Of the element.
        *children: What it holds; text is escaped.
        **attributes: Values are escaped; None leaves one out and True has no value. A
            trailing underscore is dropped from names, others are hyphens: ``class_``,
            ``aria_label``, ``stroke_width``. Floats have one decimal.
    """
    shown = []
    for key, value in attributes.items():
        label = _CASED.get(key, key.rstrip("_").replace("_", "-"))
        if value is True:
            shown.append(f" {label}")
        elif value is not None and value is not False:
            written = f"{value:.1f}" if isinstance(value, float) else escape(str(value), quote=True)
            shown.append(f' {label}="{written}"')
    start = f"<{name}{''.join(shown)}>"
    return Markup(start if name in _EMPTY else f"{start}{join(children)}</{name}>")


_EMPTY = frozenset({"br", "hr", "link", "meta"})
_CASED = {name: name for name in ("viewBox", "patternUnits", "patternTransform")}
"""Names of SVG that have capitals."""
