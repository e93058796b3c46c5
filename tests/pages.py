"""An open page of the book and the questions that the tests put to it; the links of a file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

WIDTHS, HEIGHT = (1280, 390), 844
AT_ONCE = "* { transition: none !important; scroll-behavior: auto !important; }"


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


@dataclass
class Visit:
    """What a page asked for and complained about while it was open."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def show(self, theme: str, width: int = WIDTHS[0]) -> None:
        """Change theme and width of the open page."""
        self.page.evaluate("theme => document.documentElement.dataset.theme = theme", theme)
        self.page.set_viewport_size({"width": width, "height": HEIGHT})


@contextmanager
def visited(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A page of its own, open until the context ends."""
    context = browser.new_context(**{"viewport": {"width": WIDTHS[0], "height": HEIGHT}, **options})
    visit = Visit(context.new_page())
    visit.page.on("console", lambda m: m.type == "error" and visit.complaints.append(m.text))
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("requestfailed", lambda r: visit.complaints.append(f"failed: {r.url}"))
    visit.page.on("request", lambda r: visit.requests.append(r.url))
    visit.page.goto(url)
    visit.page.wait_for_load_state("networkidle")
    if options.get("java_script_enabled", True):
        visit.page.evaluate("() => window.MathJax?.startup?.promise")
        # a colour on its way to another is neither
        visit.page.add_style_tag(content=AT_ONCE)
    yield visit
    context.close()


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


FROM_THE_TOP = """() => {
    getSelection().removeAllRanges();
    document.activeElement?.blur();
    scrollTo(0, 0);
}"""

# every control that is seen, and what each looks like before it has the focus
LIST_STOPS = """() => {
    const look = (e) => {
        const s = getComputedStyle(e);
        return [s.outlineStyle, s.outlineWidth, s.boxShadow, s.backgroundColor, s.borderColor,
            s.textDecorationLine, s.textDecorationThickness].join();
    };
    const shown = (e) => {
        for (let up = e; up; up = up.parentElement) {
            if (Number(getComputedStyle(up).opacity) === 0) return false;
        }
        const box = e.getBoundingClientRect();
        return box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0;
    };
    const controls = 'a[href], button, input, select, textarea, summary, [tabindex="0"]';
    const seen = [...document.querySelectorAll(controls)].filter((e) =>
        !e.disabled && e.checkVisibility({ visibilityProperty: true }) && !e.closest('[inert]'));
    const before = new Map(seen.map((e) => [e, look(e)]));
    const met = new Map();
    document.addEventListener('focusin', ({ target }) =>
        met.set(target, shown(target) && look(target) !== before.get(target)));
    window.stops = { before, met };
    return seen.length;
}"""

STOPS_MISSED = """() => [...window.stops.before.keys()]
    .filter((e) => window.stops.met.get(e) !== true)
    .map((e) => (window.stops.met.has(e) ? 'no focus seen: ' : 'never reached: ')
        + e.outerHTML.slice(0, 160))"""

# Long pages repeat a few patterns: of neighbours of one make two stay, and the rest is not asked.
KEEP_TWO_OF_EACH_KIND = """(within) => {
    // a glyph has the colour of its text: judge the text, not a thousand boxes inside it
    document.querySelectorAll('mjx-container').forEach((m) => m.replaceWith('x'));
    const named = (e) => `${e.tagName}.${e.className}`;
    const kind = (e) => {
        const inside = e.matches('dl, tr') ? e.children : e.querySelectorAll('*');
        return [named(e), ...new Set([...inside].map(named))].join();
    };
    for (const parent of document.querySelectorAll(within)) {
        if (!parent.isConnected || parent.children.length < 5) continue;
        const counts = {};
        for (const child of [...parent.children]) {
            const key = kind(child);
            counts[key] = (counts[key] ?? 0) + 1;
            if (counts[key] > 2) child.remove();
        }
    }
}"""

# what WCAG 2 asks for at levels A and AA, as far as a program can tell, and what colours change
RULES = {
    "light": ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"),
    "dark": ("color-contrast", "link-in-text-block"),
}
FIND_BARRIERS = """async ([script, runOnly]) => {
    if (!window.axe) (0, eval)(script);
    const found = await axe.run(document, {
        resultTypes: ['violations'], runOnly, preload: false,
    });
    return found.violations.flatMap((v) => v.nodes.map((n) =>
        `${v.id}: ${n.target} ${n.html.slice(0, 120)} ${n.failureSummary}`));
}"""


def count_stops(page: Page) -> int:
    """How many controls are seen; from now on each is watched as the focus comes to it.

    Of a long page only two of each kind are left, see KEEP_TWO_OF_EACH_KIND.
    """
    # code keeps its width: the theme makes what is too wide a stop
    page.evaluate(KEEP_TWO_OF_EACH_KIND, "body :not(pre)")
    page.evaluate(FROM_THE_TOP)
    page.wait_for_timeout(300)  # the theme looks again after a change
    return page.evaluate(LIST_STOPS)


def stops_missed(page: Page) -> list[str]:
    """Controls that the focus has not come to since, or where it could not be seen."""
    return page.evaluate(STOPS_MISSED)


def barriers(page: Page, rules: Sequence[str]) -> list[str]:
    """What axe has to say against two of each kind of element; the others go."""
    page.evaluate(KEEP_TWO_OF_EACH_KIND, "body *")
    return page.evaluate(FIND_BARRIERS, [Axe().axe_script, list(rules)])
