"""Pages in a headless browser: script errors, and what axe-core finds of WCAG 2.1 AA; light and dark, wide and narrow.

    AXE=node_modules/axe-core/axe.min.js python -m tests.access PAGE.html... | SITE/

`npm install axe-core` fetches the checker; `tox -e access` does both for the documentation. Exit status 1 where
anything is found.
"""

from __future__ import annotations

import html
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCHEMES = {"light": 1, "dark": 0}
WIDTHS = (1280, 500)
"""A headless chromium is no narrower."""
_BEFORE = """<script>window.wrong = [];
addEventListener("error", (event) => wrong.push(String(event.message)));
addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));</script>"""
_AFTER = """<script>{axe}</script><script>
addEventListener("load", () => setTimeout(async () => {{
  const found = await axe.run(document, {{ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }});
  const told = document.createElement("pre");
  told.id = "told";
  told.textContent = JSON.stringify([wrong, matchMedia("(prefers-color-scheme: dark)").matches,
    found.violations.flatMap((row) => row.nodes.map((node) => `${{row.id}}: ${{node.target}}`))]);
  document.body.append(told);
}}, 500));</script>"""
_POLICY = re.compile(r"<meta[^>]*Content-Security-Policy[^>]*>")
"""It would not let the checker in."""


class CheckedPages(SimpleHTTPRequestHandler):
    """Serves the pages of a directory with the checker in them."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.suffix != ".html" or not path.is_file():
            super().do_GET()
            return
        text = _POLICY.sub("", path.read_text())
        axe = Path(os.environ["AXE"]).read_text()
        text = text.replace("<head>", f"<head>{_BEFORE}", 1)
        text = f"{_AFTER.format(axe=axe)}</body>".join(text.rsplit("</body>", 1))
        content = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is said of requests."""


def found(url: str, scheme: str, width: int) -> list[str]:
    """What is wrong with a page as it is shown."""
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000",
               f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", f"--window-size={width},900",
               "--dump-dom", url]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout
    told = re.search(r'<pre id="told">(.*?)</pre>', shown, re.DOTALL)
    if told is None:
        return ["the checker did not run"]
    wrong, dark, violations = json.loads(html.unescape(told[1]))
    if dark is not (scheme == "dark"):
        return [f"the page is not {scheme}"]
    return [*(f"script error: {text}" for text in wrong), *violations]


def pages(arguments: list[str]) -> Iterator[tuple[Path, str]]:
    """(directory, page in it)."""
    for place in map(Path, arguments):
        if place.is_dir():
            yield from ((place, str(page.relative_to(place))) for page in sorted(place.rglob("*.html")))
        else:
            yield place.parent, place.name


def main() -> int:
    count = 0
    for root, rows in itertools.groupby(pages(sys.argv[1:]), lambda row: row[0]):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(CheckedPages, directory=str(root)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for (_, page), scheme, width in itertools.product(list(rows), SCHEMES, WIDTHS):
            wrong = found(f"http://127.0.0.1:{server.server_port}/{page}", scheme, width)
            count += len(wrong)
            print(f"{page} {scheme} {width}: {len(wrong) or 'nothing'}", *wrong[:5], sep="\n    ", flush=True)
        server.shutdown()
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
