# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: the system's Chromium, without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.device.bench_report.samples import sample_profile, sample_record, sample_result

from pocketrec_device.bench_report import write_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as BrowserPage

pytestmark = pytest.mark.slow

HOSTILE = "<script>document.title = 'taken'</script><img src=http://localhost:9/x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; absent, the tests are skipped, but fail in continuous integration."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    absent = "Chromium, a package of the system" if chromium is None else None
    if find_spec("playwright") is None:
        absent = "playwright, of the extra 'dev'"
    if absent is not None:
        if os.environ.get("CI"):
            pytest.fail(f"continuous integration needs {absent}")
        pytest.skip(f"needs {absent}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox; the page is our own.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of everything, with a variant whose name is an attack."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    result = sample_result()
    result["records"].append(sample_record(HOSTILE))
    write_html(result, path, [sample_profile()])
    return path


class Visit:
    """One look at the page, and all that it caused."""

    def __init__(self, browser: Browser, file: Path, **options: object) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page: BrowserPage = browser.new_page(**options)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(file.as_uri())


class TestPage:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_opens_without_complaints_or_requests(
        self, browser: Browser, page_file: Path, scheme: str, tmp_path: Path
    ) -> None:
        """Nothing is asked for but the file, nothing on the console, and there is a picture."""
        visit = Visit(browser, page_file, color_scheme=scheme)

        visit.page.screenshot(path=tmp_path / "page.png", full_page=True)

        assert visit.requests == [page_file.as_uri()]
        assert visit.complaints == []
        assert visit.page.title() == "demo 3: benchmark"
        assert (tmp_path / "page.png").stat().st_size > 50_000

    def test_light_and_dark_follow_the_system_and_the_button(
        self, browser: Browser, page_file: Path
    ) -> None:
        """Dark by preference; the button makes it light, and dark again."""
        page = Visit(browser, page_file, color_scheme="dark").page
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        button = page.get_by_role("button", name="Light")

        button.click()
        light = page.evaluate(ground)
        page.get_by_role("button", name="Dark").click()

        assert light == "rgb(255, 255, 255)"
        assert dark == page.evaluate(ground) != light

    def test_everything_is_reached_by_keyboard(self, browser: Browser, page_file: Path) -> None:
        """The first stop skips to the content; a folded section opens by Enter."""
        page = Visit(browser, page_file).page

        page.keyboard.press("Tab")
        first = page.evaluate("document.activeElement.textContent")
        summary = page.locator("summary", has_text="step").first
        summary.focus()
        page.keyboard.press("Enter")

        assert first == "Skip to the content"
        assert summary.locator("..").get_attribute("open") is not None

    def test_the_page_itself_never_scrolls_sideways(
        self, browser: Browser, page_file: Path
    ) -> None:
        """On a phone, wide tables and charts scroll in regions of their own."""
        page = Visit(browser, page_file, viewport={"width": 390, "height": 844}).page

        widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")

        assert widths[0] <= widths[1]

    def test_it_prints_unfolded_and_light(self, browser: Browser, page_file: Path) -> None:
        """Paper has no dark, and nobody can unfold it."""
        page = Visit(browser, page_file, color_scheme="dark").page
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")

        folded = page.locator("details:not([open])").count()
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")

        assert folded == 0
        assert ground == "rgb(255, 255, 255)"
        assert page.pdf()[:5] == b"%PDF-"

    def test_it_works_without_scripts(self, browser: Browser, page_file: Path) -> None:
        """Only the button for light and dark is missing."""
        page = Visit(browser, page_file, java_script_enabled=False).page

        assert page.locator("svg.chart").count() >= 7
        assert not page.locator("#theme").is_visible()
