"""The book builds without a warning, and each page works in a real browser, wide and narrow."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pages
import pytest
import yaml
from browser import find_chromium, launched, served
from pages import HEIGHT, WIDTHS, Links, Visit, visited
from playwright.sync_api import Browser, Page

from erdpaper.players import DATA

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
CHAPTERS = [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
PAGES = [f"{name}.html" for name in ["index", TOC["root"], *CHAPTERS, "genindex", "search"]]
THEMES = ("light", "dark")
ADDRESS = "https://github.com/someone/copy"
# browsers refuse the theme's preloads of fonts from disk; its script draws the icons
REFUSED_FROM_DISK = ("webfonts/fa-", "Failed to load resource")


@dataclass(frozen=True)
class Built:
    """A build of the book: its exit status, what it said, and the folder of the pages."""

    status: int
    said: str
    pages: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The book, built afresh from what is committed, with the address of a repository."""
    output = tmp_path_factory.mktemp("book")
    config, blank = (ROOT / "_config.yml").read_text(encoding="utf-8"), 'url: ""'
    assert config.count(blank) == 1, "the repository's address goes in one place"
    filled = output / "_config.yml"
    filled.write_text(config.replace(blank, f"url: {ADDRESS}"), encoding="utf-8")
    # the ledger shows the committed records, not those of this test run
    environment = {k: v for k, v in os.environ.items() if k != "ERDPAPER_CLAIMS_DIR"}
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", ".", "--path-output", output, "--config", filled]
    command += ["-W", "--keep-going", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return Built(done.returncode, done.stdout + done.stderr, output / "_build" / "html")


@pytest.fixture(scope="module")
def book(built: Built) -> Path:
    """The folder of the pages."""
    assert (built.pages / "index.html").is_file(), built.said
    return built.pages


@pytest.fixture(scope="module")
def address(book: Path) -> Iterator[str]:
    with served(book) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        find_chromium()
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)
    with launched() as browser:
        yield browser


def test_book_builds_without_a_warning(built: Built) -> None:
    assert built.status == 0, built.said
    assert "WARNING" not in built.said


@pytest.fixture(scope="module")
def links(book: Path) -> dict[str, Links]:
    paths = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(book).as_posix(): Links(path) for path in paths}


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.removesuffix(".html"))
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    """Each page in turn, opened once for all the tests that follow."""
    with visited(browser, address + request.param) as visit:
        yield visit


def test_pictures_and_equations_are_drawn(visit: Visit) -> None:
    assert pages.images_without_picture_or_words(visit.page) == []
    assert pages.equations_not_rendered(visit.page) == []


@pytest.mark.parametrize("theme", THEMES)
def test_nothing_is_wider_than_the_page(visit: Visit, theme: str) -> None:
    for width in WIDTHS:
        visit.show(theme, width)
        page_width = visit.page.evaluate("document.documentElement.scrollWidth")
        assert page_width <= width, pages.too_wide(visit.page)


@pytest.mark.parametrize("width", WIDTHS)
def test_tab_reaches_every_control_and_shows_where_it_is(visit: Visit, width: int) -> None:
    visit.show("light", width)
    page = visit.page
    count = pages.count_stops(page)
    assert count >= 5
    for _ in range(count + 2):
        page.keyboard.press("Tab")
    assert pages.stops_missed(page) == []


def test_figures_stay_on_white_on_a_dark_page(visit: Visit) -> None:
    visit.show("dark")
    backs = visit.page.evaluate("""() => [...document.querySelectorAll('main figure img')].map(
        i => getComputedStyle(i).backgroundColor)""")
    assert set(backs) <= {"rgb(255, 255, 255)"}


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing(visit: Visit, theme: str) -> None:
    for width in WIDTHS:
        visit.show(theme, width)
        visit.page.wait_for_timeout(300)  # what scrolls becomes a stop soon after
        assert pages.barriers(visit.page, pages.RULES[theme]) == [], width


def test_nothing_failed_and_nothing_came_from_elsewhere(visit: Visit, address: str) -> None:
    assert visit.complaints == []
    outside = [url for url in visit.requests if not url.startswith((address, "data:", "blob:"))]
    assert outside == [], "a request left this machine"


def test_equations_are_drawn_with_the_fonts_of_the_book(browser: Browser, address: str) -> None:
    with visited(browser, f"{address}{CHAPTERS[0]}.html") as visit:
        assert visit.page.locator("mjx-container").count() > 10
        fonts = [url for url in visit.requests if url.endswith(".woff")]
        assert fonts and all("/_static/mathjax/output/chtml/fonts/" in url for url in fonts)


def unexpected(visit: Visit) -> list[str]:
    """What a page from disk complained about and need not have."""
    return [c for c in visit.complaints if not any(part in c for part in REFUSED_FROM_DISK)]


@pytest.mark.parametrize("width", WIDTHS)
def test_search_from_disk_leads_to_the_right_page(browser: Browser, book: Path, width: int) -> None:
    url = (book / "book" / "index.html").as_uri()
    with visited(browser, url, viewport={"width": width, "height": HEIGHT}) as visit:
        page = visit.page
        page.get_by_role("button", name="Search").press("Enter")
        page.keyboard.type("coercivity")
        page.keyboard.press("Enter")
        results = page.locator("#search-results li a")
        results.first.wait_for()
        page.wait_for_function("document.querySelector('.search-summary')?.innerText.match(/\\d/)")
        found = results.evaluate_all("all => all.map(a => a.href.split('?')[0].split('#')[0])")
        here = [p for p in book.rglob("*.html") if "coercivity" in text_of(p)]
        assert found and set(found) <= {path.as_uri() for path in here}
        results.filter(has_text="Kernel dynamics and bounds").first.press("Enter")
        page.wait_for_load_state("networkidle")
        assert page.locator("h1").first.inner_text().startswith("Kernel dynamics and bounds")
        assert unexpected(visit) == []


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").lower()


def test_the_menu_of_a_narrow_page_opens_and_closes_by_keyboard(
    browser: Browser, address: str
) -> None:
    url = address + "book/index.html"
    with visited(browser, url, viewport={"width": WIDTHS[1], "height": HEIGHT}) as visit:
        page = visit.page
        link = page.locator(".bd-sidebar-primary").get_by_role("link", name="The Bayes floor")
        assert not link.is_visible()
        page.locator("button.primary-toggle").press("Enter")
        link.wait_for()
        for _ in range(40):
            page.keyboard.press("Tab")
            if link.evaluate("a => a === document.activeElement"):
                break
        page.keyboard.press("Enter")
        page.wait_for_load_state("networkidle")
        assert page.locator("h1").first.inner_text().startswith("The Bayes floor")


def page_with_player(name: str) -> str:
    found = [
        p for p in (ROOT / "notebooks").glob("*.md") if f"{{player}} {name}\n" in p.read_text()
    ]
    assert len(found) == 1, f"one chapter has the player {name}"
    return f"notebooks/{found[0].stem}.html"


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("width", WIDTHS)
def test_player_follows_keys_lists_and_the_play_button(
    browser: Browser, book: Path, name: str, width: int
) -> None:
    # from disk, as most readers open it
    url = (book / page_with_player(name)).as_uri()
    with visited(browser, url, viewport={"width": width, "height": HEIGHT}) as visit:
        player = visit.page.locator(f"#player-{name}")
        slider, readout = player.get_by_role("slider"), player.locator("output")
        first = readout.inner_text()
        slider.press("ArrowRight")
        assert readout.inner_text() != first and slider.get_attribute("aria-valuetext")
        slider.press("ArrowLeft")
        assert readout.inner_text() == first
        for choice in player.get_by_role("combobox").all():
            before = readout.inner_text()
            choice.select_option(choice.evaluate("s => s.options[s.options.length - 1].value"))
            assert readout.inner_text() != before
        at = float(slider.input_value())
        player.get_by_role("button", name="Play").press("Enter")
        visit.page.wait_for_function(
            "([s, at]) => Number(s.value) !== at", arg=[slider.element_handle(), at]
        )
        player.get_by_role("button", name="Pause").press("Enter")
        paused = slider.input_value()
        visit.page.wait_for_timeout(700)
        assert slider.input_value() == paused
        assert player.get_by_role("button", name="Play").is_visible()
        outside = [u for u in visit.requests if not u.startswith(("file:", "data:", "blob:"))]
        assert outside == []
        assert unexpected(visit) == []


def test_player_makes_single_steps_where_motion_is_unwanted(browser: Browser, address: str) -> None:
    url = address + page_with_player("trajectories")
    with visited(browser, url, reduced_motion="reduce") as visit:
        player = visit.page.locator("#player-trajectories")
        player.get_by_role("button", name="Step").click()
        visit.page.wait_for_timeout(500)
        assert player.get_by_role("slider").input_value() == "1"


@pytest.mark.parametrize("name", DATA)
def test_player_leaves_a_sentence_on_paper_and_without_scripts(
    browser: Browser, address: str, name: str
) -> None:
    url = address + page_with_player(name)
    sentence = "This figure is moved by a slider: on screen, with scripts allowed."
    with visited(browser, url) as visit:
        player = visit.page.locator(f"#player-{name}")
        assert player.get_by_text(sentence).is_hidden()
        visit.page.emulate_media(media="print")
        assert player.get_by_text(sentence).is_visible()
        assert player.get_by_role("slider").is_hidden()
    with visited(browser, url, java_script_enabled=False) as visit:
        assert visit.page.locator(f"#player-{name}").get_by_text(sentence).is_visible()


def test_the_gallery_offers_every_player(links: dict[str, Links]) -> None:
    offered = {t for t in links["book/gallery.html"].targets if "#player-" in t}
    assert offered == {f"../{page_with_player(name)}#player-{name}" for name in DATA}


def test_site_and_pages_are_small(book: Path, links: dict[str, Links]) -> None:
    total = sum(path.stat().st_size for path in book.rglob("*") if path.is_file())
    assert total < 25e6
    for page, found in links.items():
        # what a page brings along, apart from what all pages share
        own = {urljoin(page, target) for target in found.targets if "_images/" in target}
        parts = [book / page, *(book / path for path in own)]
        assert sum(path.stat().st_size for path in parts) < 2.5e6, page


def test_ledger_is_filtered_and_sorted_in_the_page(browser: Browser, address: str) -> None:
    with visited(browser, address + "book/ledger.html") as visit:
        filter_and_sort(visit.page)


def filter_and_sort(page: Page) -> None:
    shown = page.locator("table.claims-ledger tbody tr:visible")
    total = shown.count()
    page.get_by_label("Verdict", exact=True).select_option("does not hold")
    badges = shown.locator(".claim-badge").all_text_contents()
    assert 0 < len(badges) < total
    assert {badge[2:] for badge in badges} == {"does not hold"}
    page.get_by_label("Document", exact=True).select_option("Paper")
    assert all(t.startswith("Paper") for t in shown.locator("strong:first-child").all_inner_texts())
    page.get_by_label("Words", exact=True).fill("recoverable signal")
    assert shown.count() <= len(badges)
    page.get_by_label("Words", exact=True).fill("no claim has these words")
    assert shown.count() == 0
    assert page.locator(".ledger-filter output").inner_text() == f"0 of {total} rows"
    for name in ("Verdict", "Document"):
        page.get_by_label(name, exact=True).select_option("")
    page.get_by_label("Words", exact=True).fill("")
    page.get_by_label("Order", exact=True).select_option("chapter")
    chapters = [text.split(".")[0] for text in shown.locator("code").all_inner_texts()]
    assert len(chapters) == total and chapters == sorted(chapters)


def test_internal_links_resolve_with_their_anchors(book: Path, links: dict[str, Links]) -> None:
    broken = []
    for page, found in links.items():
        for target in found.targets:
            if "://" in target or target.startswith(("mailto:", "data:", "javascript:")):
                continue
            path, anchor = urldefrag(urljoin(page, target))
            path = path.partition("?")[0]
            path = unquote(path) or page
            there = (book / path).is_file()
            if there and anchor and path in links:
                there = unquote(anchor) in links[path].ids
            if not there:
                broken.append(f"{page}: {target}")
    assert broken == []


def test_ids_are_unique_on_each_page(links: dict[str, Links]) -> None:
    for page, found in links.items():
        if page == "search.html":
            # the theme's own page has its search box twice
            continue
        twice = [name for name, count in Counter(found.ids).items() if count > 1]
        assert twice == [], page


def test_api_shows_inherited_methods(links: dict[str, Links]) -> None:
    for law in ("Empirical", "Gaussian", "GaussianMixture"):
        for method in ("bayes_floor", "recoverable_energy"):
            assert f"erdpaper.posterior.{law}.{method}" in links["book/api.html"].ids


def test_references_are_those_that_are_cited(book: Path) -> None:
    sources = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    cited = {key for keys in re.findall(r"\{cite\}`([^`]+)`", text) for key in keys.split(",")}
    page = (book / "book" / "references.html").read_text(encoding="utf-8")
    assert page.count('<div class="citation"') == len(cited)


def test_each_notebook_can_be_downloaded(book: Path) -> None:
    for chapter in CHAPTERS:
        if chapter.startswith("notebooks/"):
            assert (book / "_sources" / f"{chapter}.ipynb").is_file()


def test_with_the_address_each_notebook_opens_on_binder(links: dict[str, Links]) -> None:
    there = "https://mybinder.org/v2/gh/someone/copy/main?urlpath=lab/tree/"
    for chapter in CHAPTERS:
        found = {t for t in links[f"{chapter}.html"].targets if "mybinder" in t}
        notebook = chapter.startswith("notebooks/")
        assert found == ({f"{there}{chapter}.ipynb"} if notebook else set()), chapter
        assert not notebook or (ROOT / f"{chapter}.ipynb").is_file()


def test_without_a_browser_one_sentence_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    with pytest.raises(RuntimeError, match=r"none on PATH: install it .*chromium"):
        find_chromium()
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "nothing"))
    with pytest.raises(RuntimeError, match=r"CHROMIUM names .* or set CHROMIUM to its path"):
        find_chromium()
