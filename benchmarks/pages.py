"""How soon pages of the built book can be used, opened from disk, and how large they are.

Build the book first (`make html`), then `.venv/bin/python benchmarks/pages.py`.
"""

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import launched  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402

HTML = ROOT / "_build" / "html"
TIMES = """() => new Promise((done) => {
    const tell = () => {
        const [t] = performance.getEntriesByType('navigation');
        done([t.domInteractive, t.domContentLoadedEventEnd, t.loadEventEnd]);
    };
    const wait = () => performance.getEntriesByType('navigation')[0].loadEventEnd
        ? tell() : setTimeout(wait, 10);
    wait();
})"""


def opened(browser: Browser, path: Path) -> list[float]:
    """Seconds to a parsed page, to its scripts' end and to the last picture, nothing cached."""
    context = browser.new_context(viewport={"width": 1280, "height": 844})
    page = context.new_page()
    page.goto(path.as_uri())
    found = [value / 1000 for value in page.evaluate(TIMES)]
    context.close()
    return found


def main(html: Path, repeats: int = 7) -> None:
    if not (html / "index.html").is_file():
        sys.exit(f"there is no book in {html}: build it with `make html`")
    total = sum(path.stat().st_size for path in html.rglob("*") if path.is_file())
    print(f"whole site {total / 1e6:.1f} MB")
    pages = [html / "book" / "index.html", *sorted((html / "notebooks").glob("*.html"))]
    print(f"{'page':42}   MB  parsed  scripts  complete   (s, median of {repeats})")
    with launched() as browser:
        opened(browser, pages[0])
        for path in pages:
            runs = [opened(browser, path) for _ in range(repeats)]
            medians = [statistics.median(column) for column in zip(*runs, strict=True)]
            size, shown = path.stat().st_size / 1e6, "".join(f"{m:9.2f}" for m in medians)
            print(f"{path.relative_to(html)!s:42} {size:4.1f}{shown}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HTML)
