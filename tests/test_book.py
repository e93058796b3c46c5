"""The book builds without a warning, and each page works in a real browser, wide and narrow."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
import yaml
from browser import FLAGS, find_chromium, served
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
CHAPTERS = [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
PAGES = [f"{name}.html" for name in ["index", TOC["root"], *CHAPTERS, "genindex", "search"]]
WIDTHS = (1280, 390)


@dataclass(frozen=True)
class Built:
    """A build of the book: its exit status, what it said, and the folder of the pages."""

    status: int
    said: str
    pages: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The book, built afresh from the committed notebooks and results."""
    output = tmp_path_factory.mktemp("book")
    # the ledger shows the committed records, not those of this test run
    environment = {k: v for k, v in os.environ.items() if k != "ERDPAPER_CLAIMS_DIR"}
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", ".", "--path-output", output, "-W", "--keep-going", "--quiet"]
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
        path = find_chromium()
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def test_book_builds_without_a_warning(built: Built) -> None:
    assert built.status == 0, built.said
    assert "WARNING" not in built.said


@dataclass
class Visit:
    """What a page asked for and complained about while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Visit]:
    path, width = request.param
    page = browser.new_page(viewport={"width": width, "height": 844})
    visit = Visit(page)
    page.on("console", lambda m: m.type == "error" and visit.complaints.append(m.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("requestfailed", lambda r: visit.complaints.append(f"failed: {r.url}"))
    page.on("request", lambda r: visit.requests.append(r.url))
    page.goto(address + path)
    page.wait_for_load_state("networkidle")
    page.evaluate("() => window.MathJax?.startup?.promise")
    yield visit
    page.close()


every_page = pytest.mark.parametrize(
    "visit",
    [(page, width) for page in PAGES for width in WIDTHS],
    indirect=True,
    ids=lambda value: f"{value[0].removesuffix('.html')}-{value[1]}",
)


@every_page
def test_page_works(visit: Visit, address: str) -> None:
    assert visit.complaints == []
    outside = [url for url in visit.requests if not url.startswith((address, "data:", "blob:"))]
    assert outside == [], "a request left this machine"
    assert images_without_picture_or_words(visit.page) == []
    assert equations_not_rendered(visit.page) == []
    page_width = visit.page.evaluate("document.documentElement.scrollWidth")
    assert page_width <= visit.page.viewport_size["width"], too_wide(visit.page)


def images_without_picture_or_words(page: Page) -> list[str]:
    # Sphinx puts the file name where a notebook gives no words
    return page.evaluate("""() => [...document.querySelectorAll('img')].filter(i =>
        !i.complete || i.naturalWidth == 0 || !i.alt.trim() || /\\.(png|svg|jpe?g)$/.test(i.alt)
    ).map(i => `${i.src}: ${i.alt}`)""")


def equations_not_rendered(page: Page) -> list[str]:
    return page.evaluate("""() => [...document.querySelectorAll('.math')].filter(m =>
        !m.querySelector('mjx-container') || m.querySelector('mjx-merror, [data-mjx-error]')
    ).map(m => m.textContent)""")


def too_wide(page: Page) -> list[str]:
    return page.evaluate("""() => [...document.querySelectorAll('main *')].filter(e =>
        e.getBoundingClientRect().right > innerWidth + 1
    ).slice(0, 5).map(e => e.outerHTML.slice(0, 200))""")


@pytest.mark.parametrize("visit", [(f"{c}.html", 1280) for c in CHAPTERS[:1]], indirect=True)
def test_equations_are_drawn_with_the_fonts_of_the_book(visit: Visit) -> None:
    assert visit.page.locator("mjx-container").count() > 10
    fonts = [url for url in visit.requests if url.endswith(".woff")]
    assert fonts and all("/_static/mathjax/output/chtml/fonts/" in url for url in fonts)


@pytest.mark.parametrize("visit", [(f"{c}.html", 390) for c in CHAPTERS[:1]], indirect=True)
def test_figures_stay_on_white_on_a_dark_page(visit: Visit) -> None:
    visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    backs = visit.page.evaluate("""() => [...document.querySelectorAll('div.cell_output img')].map(
        i => getComputedStyle(i).backgroundColor)""")
    assert backs and set(backs) == {"rgb(255, 255, 255)"}


LEDGER = [("book/ledger.html", width) for width in WIDTHS]


@pytest.mark.parametrize("visit", LEDGER, indirect=True)
def test_ledger_is_filtered_and_sorted_in_the_page(visit: Visit) -> None:
    page = visit.page
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


class Links(HTMLParser):
    """The links, sources and ids of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.ids += [values["id"]] if values.get("id") else []
        for name in ("href", "src"):
            if values.get(name):
                self.targets.append(str(values[name]))


@pytest.fixture(scope="module")
def links(book: Path) -> dict[str, Links]:
    paths = [path for path in book.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(book).as_posix(): Links(path) for path in paths}


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
