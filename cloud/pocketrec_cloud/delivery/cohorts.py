# SPDX-License-Identifier: Apache-2.0
"""Cohorts: rules on what devices declare, such as ``os = Android and ram >= 4GiB``.

::

    rule       = all { "or" all }
    all        = part { "and" part }
    part       = "not" part | "(" rule ")" | comparison
    comparison = fact sign value | fact [ "not" ] "in" "(" value { "," value } ")"
    sign       = "=" | "!=" | "<" | "<=" | ">" | ">="
    value      = letters, digits and . _ + - | text in double quotes

Nothing a device did not tell is equal to, below or above anything; ``!=`` and ``not in`` are
the opposites of ``=`` and ``in``, so they hold then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.cohort_facts import FACTS, Value
from pocketrec_cloud.delivery.records import DeviceRecord
from pocketrec_quantization.checks import check_text

__all__ = ["MAX_COHORT_CHARS", "MAX_COHORT_DEPTH", "MAX_COHORT_VALUES", "Cohort"]

MAX_COHORT_CHARS = 1024
"""Of a rule, as it came and in its canonical form."""

MAX_COHORT_DEPTH = 16
"""Parentheses and ``not`` inside each other."""

MAX_COHORT_VALUES = 64
"""Of one list after ``in``."""

_WORD = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
_TOKEN = re.compile(rf"\s*(?:(?P<word>{_WORD})|\"(?P<text>[^\"\\]*)\"|(?P<sign><=|>=|!=|[=<>(),]))")
_KEYWORDS = ("and", "or", "not", "in")
_SIGNS = ("=", "!=", "<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class _Comparison:
    fact: str
    sign: str
    values: tuple[Value, ...]

    def matches(self, device: DeviceRecord) -> bool:
        fact = FACTS[self.fact]
        return any(fact.holds(device, self.sign, value) for value in self.values)

    def write(self, negated: str = "") -> str:
        literals = [_quoted(FACTS[self.fact].write(value)) for value in self.values]
        if len(literals) > 1:
            return f"{self.fact} {'not in' if negated else 'in'} ({', '.join(literals)})"
        return f"{self.fact} {negated or self.sign} {literals[0]}"


@dataclass(frozen=True, slots=True)
class _Not:
    part: _Rule

    def matches(self, device: DeviceRecord) -> bool:
        return not self.part.matches(device)

    def write(self) -> str:
        if isinstance(self.part, _Comparison) and self.part.sign == "=":
            return self.part.write(negated="!=")
        return f"not {_bracketed(self.part)}"


@dataclass(frozen=True, slots=True)
class _Several:
    """Parts of which all (``and``) or one (``or``) must match."""

    word: str
    parts: tuple[_Rule, ...]

    def matches(self, device: DeviceRecord) -> bool:
        matching = (part.matches(device) for part in self.parts)
        return all(matching) if self.word == "and" else any(matching)

    def write(self) -> str:
        is_loose = self.word == "or"
        return f" {self.word} ".join(
            part.write() if is_loose else _bracketed(part) for part in self.parts
        )


_Rule: TypeAlias = _Comparison | _Not | _Several


@dataclass(frozen=True, slots=True)
class Cohort:
    """Some of all devices, by what they declare; made by :meth:`parse`.

    Two cohorts are equal when their rules are the same but for spelling.

    Example:
        >>> str(Cohort.parse("os=Android AND (locale in(de, fr) or ram>=4096MiB)"))
        'os = Android and (locale in (de, fr) or ram >= 4GiB)'
    """

    _rule: _Rule | None = None

    @classmethod
    def parse(cls, text: str) -> Cohort:
        """Return the cohort of a rule; the empty text is everybody.

        Raises:
            ConfigError: The text is no such rule, too long or too deep; the message names
                the place.
        """
        check_text(text, field="cohort", maximum=MAX_COHORT_CHARS)
        cohort = cls(_Parser(text).parse())
        if len(str(cohort)) > MAX_COHORT_CHARS:
            raise ConfigError(
                f"cohort: expected at most {MAX_COHORT_CHARS} characters, got {len(str(cohort))} "
                "with spaces around signs; make it shorter"
            )
        return cohort

    @property
    def is_everybody(self) -> bool:
        """Whether there is no rule."""
        return self._rule is None

    def matches(self, device: DeviceRecord) -> bool:
        """Whether a device belongs to it."""
        return self._rule is None or self._rule.matches(device)

    def __str__(self) -> str:
        return "" if self._rule is None else self._rule.write()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words

    def is_sign(self, *signs: str) -> bool:
        return self.kind == "sign" and self.text in signs


class _Parser:
    """Reads one rule by recursive descent; each method takes what it returns."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def parse(self) -> _Rule | None:
        if self._now.kind == "end":
            return None
        rule = self._several("or")
        if self._now.kind != "end":
            raise _unexpected("'and', 'or' or the end", self._now)
        return rule

    @property
    def _now(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._now
        self._next += 1
        return token

    def _expect_sign(self, sign: str) -> None:
        if not self._now.is_sign(sign):
            raise _unexpected(repr(sign), self._now)
        self._take()

    def _several(self, word: str) -> _Rule:
        parts: list[_Rule] = []
        while True:
            part = self._several("and") if word == "or" else self._part()
            parts += part.parts if isinstance(part, _Several) and part.word == word else (part,)
            if not self._now.is_word(word):
                return parts[0] if len(parts) == 1 else _Several(word, tuple(parts))
            self._take()

    def _part(self) -> _Rule:
        if not self._now.is_word("not") and not self._now.is_sign("("):
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_COHORT_DEPTH:
            raise _unexpected(f"at most {MAX_COHORT_DEPTH} levels", self._now)
        if self._take().is_sign("("):
            rule = self._several("or")
            self._expect_sign(")")
        else:
            rule = _opposite(self._part())
        self._depth -= 1
        return rule

    def _comparison(self) -> _Rule:
        name = self._now.text.lower()
        if self._now.kind != "word" or name not in FACTS:
            raise _unexpected(f"one of {', '.join(FACTS)}", self._now)
        self._take()
        is_negated = self._now.is_word("not")
        if is_negated:
            self._take()
        if is_negated or self._now.is_word("in"):
            rule = _Comparison(name, "=", self._list(name))
            return _opposite(rule) if is_negated else rule
        sign = self._sign(name)
        rule = _Comparison(name, "=" if sign == "!=" else sign, (self._value(name),))
        return _opposite(rule) if sign == "!=" else rule

    def _sign(self, name: str) -> str:
        allowed = _SIGNS if FACTS[name].is_ordered else _SIGNS[:2]
        if not self._now.is_sign(*allowed):
            raise _unexpected(f"one of {' '.join(allowed)} in", self._now)
        return self._take().text

    def _list(self, name: str) -> tuple[Value, ...]:
        if not self._now.is_word("in"):
            raise _unexpected("'in'", self._now)
        self._take()
        self._expect_sign("(")
        values = [self._value(name)]
        while self._now.is_sign(","):
            if len(values) == MAX_COHORT_VALUES:
                raise _unexpected(f"at most {MAX_COHORT_VALUES} values", self._now)
            self._take()
            values.append(self._value(name))
        self._expect_sign(")")
        return tuple(dict.fromkeys(values))

    def _value(self, name: str) -> Value:
        token = self._now
        if token.kind not in {"word", "text"} or token.is_word(*_KEYWORDS):
            raise _unexpected("a value", token)
        try:
            value = FACTS[name].read(token.text)
        except ConfigError as exc:
            raise _unexpected(str(exc).removeprefix("expected "), token) from exc
        self._take()
        return value


def _tokens(text: str) -> Iterator[_Token]:
    position, end = 0, len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            raise _unexpected(
                "a fact, a sign, a value, or a closing quote", _Token("", text[start:], start)
            )
        kind = str(found.lastgroup)
        start = found.start(kind) - (kind == "text")
        yield _Token(kind, found[kind], start)
        position = found.end()
    yield _Token("end", "", len(text))


def _unexpected(expected: str, token: _Token) -> ConfigError:
    got = "the end" if token.kind == "end" else repr(token.text[:40])
    return ConfigError(f"cohort, at character {token.start + 1}: expected {expected}, got {got}")


def _opposite(rule: _Rule) -> _Rule:
    return rule.part if isinstance(rule, _Not) else _Not(rule)


def _bracketed(rule: _Rule) -> str:
    """Return a rule as part of another one."""
    text = rule.write()
    return f"({text})" if isinstance(rule, _Several) else text


def _quoted(literal: str) -> str:
    is_plain = re.fullmatch(_WORD, literal) and literal.lower() not in _KEYWORDS
    return literal if is_plain else f'"{literal}"'
