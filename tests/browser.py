"""A local server for built pages and the Chromium that opens them."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def find_chromium() -> str:
    """Path of the browser in CHROMIUM or on PATH; RuntimeError says how to get one."""
    named = os.environ.get("CHROMIUM")
    found = [shutil.which(name) for name in ([named] if named else NAMES)]
    browser = next((path for path in found if path), None)
    if browser is None:
        where = f"CHROMIUM names {named!r}, which cannot be started" if named else "none on PATH"
        raise RuntimeError(
            f"the pages are tested in Chromium and there is {where}: "
            "install it (on Debian: apt-get install chromium) or set CHROMIUM to its path"
        )
    return browser


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, while the context lasts; RuntimeError where there is none."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/favicon.ico":
            # browsers ask for it where a page names no icon
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine while the context lasts; the address ends in a slash."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
