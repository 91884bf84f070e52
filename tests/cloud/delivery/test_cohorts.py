# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.cohort_facts import FACTS
from pocketrec_cloud.delivery.cohorts import (
    MAX_COHORT_CHARS,
    MAX_COHORT_DEPTH,
    MAX_COHORT_VALUES,
    Cohort,
)
from pocketrec_cloud.delivery.records import DeviceRecord

PHONE = DeviceRecord(
    device_id="0" * 32,
    public_key=bytes(32),
    token_sha256=bytes(32),
    token_expires_at_s=0,
    backend="onnxruntime 1.31.1",
    app_version="2.10.1-beta",
    os="Android",
    ram_bytes=4 * 2**30,
    created_at_s=0,
    seen_at_s=0,
    locale="de-AT",
    tags=("beta", "kiosk"),
)
SILENT = replace(PHONE, backend="", app_version="", os="", ram_bytes=0, locale="", tags=())

WORDS = st.sampled_from(["a", "Ab", "x.y", "beta-1", "4"])
TEXTS = WORDS | st.sampled_from(["and", "NOT", "two words", "ä", "(", "-x"]).map('"{}"'.format)
VERSIONS = st.lists(st.integers(0, 99), min_size=1, max_size=4).map(
    lambda numbers: ".".join(map(str, numbers))
)
SIZES = st.builds("{}{}".format, st.integers(0, 9999), st.sampled_from(["", "B", "KiB", "GiB"]))
LITERALS = {
    "app_version": VERSIONS,
    "backend": TEXTS,
    "locale": st.sampled_from(["de", "DE-at", "zh-Hant-TW"]),
    "os": TEXTS,
    "ram": SIZES,
    "tag": TEXTS,
}


def matches(rule: str, device: DeviceRecord = PHONE) -> bool:
    """Whether a device belongs to the cohort of a rule."""
    return Cohort.parse(rule).matches(device)


@st.composite
def comparisons(draw: st.DrawFn) -> str:
    """Comparisons of any fact with what fits it."""
    fact = draw(st.sampled_from(sorted(FACTS)))
    if draw(st.booleans()):
        values = draw(st.lists(LITERALS[fact], min_size=1, max_size=4))
        return f"{fact} {draw(st.sampled_from(['in', 'not in']))} ({','.join(values)})"
    signs = ["=", "!="] + ["<", "<=", ">", ">="] * FACTS[fact].is_ordered
    return f"{fact}{draw(st.sampled_from(signs))}{draw(LITERALS[fact])}"


RULES = st.recursive(
    comparisons(),
    lambda rules: (
        st.builds("not {}".format, comparisons())
        | st.builds("not ({})".format, rules)
        | st.builds("({}) and {}".format, rules, comparisons())
        | st.builds("{} or {} AND {}".format, rules, comparisons(), comparisons())
        | st.builds("({}) or ({})".format, rules, rules)
    ),
    max_leaves=8,
)
DEVICES = st.builds(
    replace,
    st.just(PHONE),
    backend=st.sampled_from(["", "a", "a 1.2", "two words"]),
    app_version=st.just("") | VERSIONS,
    os=st.sampled_from(["", "a", "AB", "and"]),
    ram_bytes=st.sampled_from([0, 4, 4096, 2**30]),
    locale=st.sampled_from(["", "de", "de-AT", "zh-Hant-TW"]),
    tags=st.lists(st.sampled_from(["a", "beta-1", "and"]), max_size=2).map(tuple),
)


class TestMatching:
    @pytest.mark.parametrize(
        "rule",
        [
            "",
            "  ",
            "os = Android",
            "os = android",
            "os != iOS",
            "os in (iOS, Android)",
            "os not in (iOS, Linux)",
            "app_version >= 2.9",
            "app_version = 2.10.1",
            "app_version > 2.10.0.99",
            "app_version < 2.10.2",
            "ram >= 4GiB",
            "ram = 4096MiB",
            "ram < 4.5GiB",
            "ram = 4294967296",
            "locale = de",
            "locale = DE-at",
            "locale in (fr, de)",
            "tag = beta",
            "tag in (alpha, kiosk)",
            "backend = onnxruntime",
            'backend = "onnxruntime 1.31.1"',
            "os = iOS or tag = beta and ram > 1GiB",
            "not (os = iOS or tag = alpha)",
            "not not tag = beta",
        ],
    )
    def test_holds(self, rule: str) -> None:
        """These rules hold for an Android phone with 4 GiB, version 2.10.1, in Austria."""
        assert matches(rule)

    @pytest.mark.parametrize(
        "rule",
        [
            "os = iOS",
            "os = Androi",
            "app_version < 2.9",
            "app_version = 2.10",
            "ram > 4GiB",
            "locale = d",
            "locale = de-A",
            "locale = de-AT-x",
            "locale != de",
            "tag = Beta",
            "tag != kiosk",
            "tag not in (x, beta)",
            "backend = onnx",
            "(os = iOS or tag = beta) and ram > 4GiB",
            "not tag = beta",
        ],
    )
    def test_does_not_hold(self, rule: str) -> None:
        """These rules do not hold for the same phone."""
        assert not matches(rule)

    @pytest.mark.parametrize(
        "rule", ["os = Android", "app_version < 99", "ram >= 0", "locale = de", "tag in (a)"]
    )
    def test_what_was_not_told_compares_with_nothing(self, rule: str) -> None:
        """A fact that a device keeps to itself is neither equal to nor below anything."""
        assert not matches(rule, SILENT)

    @pytest.mark.parametrize("rule", ["os != Android", "tag not in (a, b)", "not ram < 4GiB"])
    def test_what_was_not_told_is_not_something(self, rule: str) -> None:
        """The opposite of a comparison holds where the comparison does not."""
        assert matches(rule, SILENT)

    def test_a_version_without_numbers_was_not_told(self) -> None:
        """A version that starts with no number is in no order."""
        assert not matches("app_version >= 0", replace(PHONE, app_version="nightly"))

    def test_zeros_at_the_end_mean_nothing(self) -> None:
        """2, 2.0 and 2.0.0 are the same version."""
        assert matches("app_version = 2.0", replace(PHONE, app_version="2.0.0"))

    @given(rule=RULES, device=DEVICES)
    def test_not_is_the_opposite(self, rule: str, device: DeviceRecord) -> None:
        """A rule and its ``not`` never both hold, and one of them does."""
        assume(len(rule) < 300)
        assert matches(rule, device) != matches(f"not ({rule})", device)


class TestCanonicalForm:
    @pytest.mark.parametrize(
        ("rule", "canonical"),
        [
            ("", ""),
            ("  ", ""),
            ("OS=Android", "os = Android"),
            ("((tag=a)) AND (tag=b and tag=c)", "tag = a and tag = b and tag = c"),
            ("tag=a or (tag=b and tag=c)", "tag = a or tag = b and tag = c"),
            ("tag=a and (tag=b or tag=c)", "tag = a and (tag = b or tag = c)"),
            ("not tag=a", "tag != a"),
            ("not(tag=a or tag=b)", "not (tag = a or tag = b)"),
            ("not not ram>1KiB", "ram > 1KiB"),
            ("tag in (a)", "tag = a"),
            ("tag not in(a,b,a)", "tag not in (a, b)"),
            ("ram<1.5GiB", "ram < 1536MiB"),
            ("ram<01000", "ram < 1000"),
            ("app_version=02.0", "app_version = 2"),
            ('tag="a"', "tag = a"),
            ('tag="a b" or tag="or"', 'tag = "a b" or tag = "or"'),
        ],
    )
    def test_examples(self, rule: str, canonical: str) -> None:
        """The same rule has one spelling."""
        assert str(Cohort.parse(rule)) == canonical

    @given(rule=RULES, device=DEVICES)
    def test_it_means_the_same(self, rule: str, device: DeviceRecord) -> None:
        """What is written can be read again, is the same cohort, and matches the same devices."""
        assume(len(rule) < 300)
        cohort = Cohort.parse(rule)
        again = Cohort.parse(str(cohort))
        assert again == cohort
        assert str(again) == str(cohort)
        assert again.matches(device) == cohort.matches(device)

    def test_everybody_has_no_rule(self) -> None:
        """Only the empty text is everybody."""
        assert Cohort.parse("").is_everybody
        assert not Cohort.parse("tag = a").is_everybody


class TestRefusals:
    @pytest.mark.parametrize(
        ("rule", "complaint"),
        [
            ("color = red", "at character 1: expected one of app_version, backend, locale"),
            ("os", "at character 3: expected one of = != in, got the end"),
            ("os < Android", "at character 4: expected one of = != in, got '<'"),
            ("os =", "at character 5: expected a value, got the end"),
            ("os = and", "at character 6: expected a value, got 'and'"),
            ('os = ""', "at character 6: expected a text that is not empty"),
            ('os = "Andr', "at character 6: expected a fact, a sign, a value, or a closing quote"),
            ("os = Android tag = a", "at character 14: expected 'and', 'or' or the end"),
            ("(os = Android", "at character 14: expected ')', got the end"),
            ("os = Android)", "at character 13: expected 'and', 'or' or the end, got ')'"),
            ("tag in beta", "at character 8: expected '(', got 'beta'"),
            ("tag in ()", "at character 9: expected a value, got ')'"),
            ("tag not = a", "at character 9: expected 'in', got '='"),
            ("ram > 4GB", "at character 7: expected a number of bytes such as 4GiB"),
            ("ram > 0.3B", "at character 7: expected a whole number of bytes"),
            ("ram > 99999999TiB", "at character 7: expected a whole number of bytes"),
            ("app_version > 2.x", "at character 15: expected a version such as 2.14.1"),
            ("locale = de_AT", "at character 10: expected a language tag such as de or de-AT"),
            ("os = Android; tag = a", "at character 13: expected a fact, a sign"),
            ("os = Android\nor tag = a", "expected at most 1024 characters of one line"),
        ],
    )
    def test_the_message_names_the_place(self, rule: str, complaint: str) -> None:
        """Who wrote a rule learns where it is wrong, and what would be right there."""
        with pytest.raises(ConfigError, match=re.escape(complaint)):
            Cohort.parse(rule)

    def test_too_long(self) -> None:
        """A rule has a length that every store takes."""
        with pytest.raises(ConfigError, match="at most 1024 characters"):
            Cohort.parse(" " * (MAX_COHORT_CHARS + 1))

    def test_too_long_when_spelled_out(self) -> None:
        """A rule whose canonical form could not be read again is refused at once."""
        rule = " or ".join(["tag=a"] * 110)
        assert len(rule) < MAX_COHORT_CHARS
        with pytest.raises(ConfigError, match="with spaces around signs"):
            Cohort.parse(rule)

    @pytest.mark.parametrize(("left", "right"), [("(", ")"), ("not ", "")])
    def test_too_deep(self, left: str, right: str) -> None:
        """Levels are counted before they are entered."""
        fits = left * MAX_COHORT_DEPTH + "tag = a" + right * MAX_COHORT_DEPTH
        assert matches(fits, replace(PHONE, tags=("a",)))
        with pytest.raises(ConfigError, match="at most 16 levels"):
            Cohort.parse(left + fits + right)

    def test_too_many_values(self) -> None:
        """A list has a bounded number of values."""
        fits = ",".join(map(str, range(MAX_COHORT_VALUES)))
        assert not matches(f"tag in ({fits})")
        with pytest.raises(ConfigError, match="at most 64 values"):
            Cohort.parse(f"tag in ({fits},x)")

    @given(text=st.text(alphabet='os=tag(in)andort"<>!, 1.é\\', max_size=60))
    def test_nothing_else_comes_out(self, text: str) -> None:
        """Whatever the text, there is a cohort that can be written, or a ``ConfigError``."""
        try:
            cohort = Cohort.parse(text)
        except ConfigError:
            return
        assert Cohort.parse(str(cohort)) == cohort


class TestDocumentation:
    def test_rules_and_complaint_are_real(self) -> None:
        """docs/cohorts.md shows rules that are read, and a message that is given."""
        page = (Path(__file__).parents[3] / "docs" / "cohorts.md").read_text("utf-8")
        rules = [line.strip() for line in page.splitlines() if line.startswith("    ")]

        assert len(rules) == 3
        assert all(not Cohort.parse(rule).is_everybody for rule in rules)
        assert set(FACTS) == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
        with pytest.raises(ConfigError) as refusal:
            Cohort.parse("ram > 4GB")
        assert str(refusal.value) in page
