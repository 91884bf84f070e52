# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from tests.device.bench_report.samples import sample_profile, sample_record, sample_result

from pocketrec.errors import ConfigError
from pocketrec_device.bench_report.bench_tables import summary_table
from pocketrec_device.bench_report.content import Content
from pocketrec_device.bench_report.markdown import markdown_page
from pocketrec_device.bench_report.page import html_page
from pocketrec_device.bench_report.run_tables import environment_table, runs_table

HOSTILE = "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&|`"
THEMES = {"light": r":root \{(.*?)\}", "dark": r'\n:root\[data-theme="dark"\] \{(.*?)\}'}


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    """A page of everything."""
    return html_page(Content.of([sample_result()], [sample_profile()]))


class TestSelfContained:
    def test_it_names_nothing_to_fetch(self, page: str) -> None:
        """No element has an address but sections of the page, and the empty icon."""
        addresses = {
            attributes[key]
            for _, attributes in Page(page).elements
            for key in ("src", "href", "action", "data", "poster", "srcset")
            if key in attributes
        }

        assert {address for address in addresses if not str(address).startswith("#")} == {"data:,"}
        assert "@import" not in page
        assert set(re.findall(r"url\((.*?)\)", page)) == {"#hatch"}

    def test_its_policy_allows_its_own_style_and_script_only(self, page: str) -> None:
        """Both by digest, so that no other one runs."""
        policies = [
            str(meta["content"])
            for meta in Page(page).of("meta")
            if meta.get("http-equiv") == "Content-Security-Policy"
        ]
        bodies = re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL)
        digests = {kind: hashlib.sha256(body.encode()).digest() for kind, body in bodies}
        expected = {
            f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'"
            for kind, digest in digests.items()
        }

        assert len(policies) == 1
        directives = policies[0].split("; ")
        assert directives[0] == "default-src 'none'"
        assert {each for each in directives if each.startswith(("style", "script"))} == expected
        assert "unsafe" not in policies[0]

    def test_no_style_or_handler_stands_in_an_attribute(self, page: str) -> None:
        """The policy would refuse them."""
        names = {name for _, attributes in Page(page).elements for name in attributes}

        assert not {name for name in names if name == "style" or name.startswith("on")}


class TestHostileFiles:
    @pytest.mark.parametrize("place", ["variant", "cell", "cpu", "label", "reason", "text", "node"])
    def test_markup_in_a_file_is_text_on_the_page(self, place: str) -> None:
        """A name that closes everything and starts a script does neither."""
        result, profile = sample_result(), sample_profile()
        match place:
            case "variant" | "cell":
                result["records"] = [sample_record("a"), sample_record("b") | {place: HOSTILE}]
            case "cpu":
                result["environment"]["hardware"]["cpu"] = HOSTILE
            case "label":
                result["run"]["label"] = HOSTILE
            case "reason":
                result["skipped"][0]["reason"] = HOSTILE
            case "text":
                result["records"][-1]["validity"]["flags"][0]["text"] = HOSTILE
            case _:
                profile["functions"][0]["operators"][0]["node"] = HOSTILE

        written = html_page(Content.of([result], [profile]))
        page = Page(written)

        assert len(page.of("script")) == 1
        assert page.of("img") == []
        assert HOSTILE in written.replace("&lt;", "<").replace("&gt;", ">").replace(
            "&quot;", '"'
        ).replace("&#x27;", "'").replace("&amp;", "&")

    def test_a_name_breaks_no_table_of_markdown(self) -> None:
        """Bars and line breaks in it are no cells and rows."""
        record = sample_record("a|b\n| c <img>")
        tables = markdown_page(Content.of([sample_result(records=[record])]))

        assert r"| a\|b \| c \<img\> |" in tables
        assert "<img>" not in tables


class TestReading:
    def test_all_tables_of_the_page_are_in_markdown(self, page: str) -> None:
        """By their titles."""
        titles = re.findall(r"<caption>(.*?)</caption>", page)
        tables = markdown_page(Content.of([sample_result()], [sample_profile()]))

        headings = [
            line.removeprefix("### ").replace("\\", "").replace("&", "&amp;")
            for line in tables.splitlines()
            if line.startswith("### ")
        ]
        assert sorted(headings) == sorted(titles)
        assert len(titles) > 10

    def test_regions_that_scroll_are_reached_by_keyboard_and_named(self, page: str) -> None:
        """Every one of them."""
        regions = [
            attributes
            for _, attributes in Page(page).elements
            if attributes.get("class") == "scroll"
        ]

        assert len(regions) > 10
        assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions)

    def test_every_head_of_a_table_says_what_it_heads(self, page: str) -> None:
        """A row or a column."""
        assert {head.get("scope") for head in Page(page).of("th")} == {"row", "col"}

    def test_doubtful_cells_are_announced(self, page: str) -> None:
        """Two of the eight, with the reason below."""
        words = "".join(Page(page).words)

        assert "2 of 8 cells are doubtful" in words
        assert "processes differ by 30 %" in words

    def test_cells_of_two_results_are_told_apart(self) -> None:
        """By letters, which the table of runs explains."""
        content = Content.of([sample_result(("a",)), sample_result(("a",))])

        names = [cell.name for cell in content.cells]
        assert names == ["A: a · single", "A: a · offline", "B: a · single", "B: a · offline"]
        assert "B: a · single" in html_page(content)

    @pytest.mark.parametrize("what", ["profiles", "quality", "samples", "layers"])
    def test_what_was_not_measured_leaves_no_gap(self, what: str) -> None:
        """A page says so, or leaves it out."""
        record = sample_record("a")
        match what:
            case "quality":
                record["quality"] = None
            case "samples":
                for process in record["processes"]:
                    process["samples_ns"] = {}
            case "layers":
                record["layers"] = []
            case _:
                pass

        content = Content.of([sample_result(records=[record])])

        assert "</html>" in html_page(content)
        assert markdown_page(content).startswith("# demo 3: benchmark")

    def test_runs_are_called_the_same_everywhere(self) -> None:
        """Of more results than letters, too."""
        content = Content.of([sample_result(("a",))] * 27)

        assert content.cells[-1].name.startswith("R26: ")
        assert runs_table(content).rows[-1][0] == "R26"
        assert environment_table(content).columns[-1].name == "run R26"

    def test_nothing_is_said_of_the_weights_of_another_runtime(self) -> None:
        """It converts them as it likes."""
        peer = sample_record("mnn-int4", backend="peer", effective_bits=32.0)
        content = Content.of([sample_result(records=[sample_record("a"), peer])])

        assert [row[1:3] for row in summary_table(content).rows] == [("4.50", "20,000"), ("–", "–")]

    def test_a_result_without_cells_is_refused(self) -> None:
        """There is nothing to show."""
        with pytest.raises(ConfigError, match="found none"):
            Content.of([sample_result(records=[])])

    @pytest.mark.parametrize("absent", ["records", "environment"])
    def test_what_is_no_result_is_refused(self, absent: str) -> None:
        """The absent key is named."""
        result = sample_result()
        del result[absent]

        with pytest.raises(ConfigError, match=absent):
            Content.of([result])

    def test_a_record_without_its_keys_is_refused(self) -> None:
        """So is one that another program wrote."""
        record = sample_record("a")
        del record["latency_us"]

        with pytest.raises(ConfigError, match="latency_us"):
            Content.of([sample_result(records=[record])])


class TestColours:
    """WCAG 2.2: text 4.5 to 1, graphics 3 to 1, in both themes."""

    @pytest.mark.parametrize("theme", sorted(THEMES))
    def test_text_is_readable(self, page: str, theme: str) -> None:
        """On the page, and on its panels."""
        colours = colours_of(page, theme)

        for ground in ("page", "panel"):
            for ink in ("text", "muted", "link"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["warn-text"], colours["warn-page"]) >= 4.5
        assert contrast(colours["good"], colours["page"]) >= 4.5

    @pytest.mark.parametrize("theme", sorted(THEMES))
    def test_every_series_stands_out(self, page: str, theme: str) -> None:
        """Against the page it is drawn on."""
        colours = colours_of(page, theme)

        for number in range(6):
            assert contrast(colours[f"c{number}"], colours["page"]) >= 3

    def test_the_device_and_the_button_give_the_same_dark(self, page: str) -> None:
        """The colours stand there twice."""
        preferred = re.search(r':not\(\[data-theme="light"\]\) \{(.*?)\}', page, re.DOTALL)
        chosen = re.search(THEMES["dark"], page, re.DOTALL)

        assert preferred is not None
        assert chosen is not None
        assert preferred[1].split() == chosen[1].split()


def colours_of(page: str, theme: str) -> dict[str, str]:
    """Return a theme's colours by name."""
    found = re.search(THEMES[theme], page, re.DOTALL)
    assert found is not None
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", found[1]))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, as WCAG defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rrggbb``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
