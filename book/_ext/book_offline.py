"""Keep the book readable without a network: MathJax from a local file, no thebe, and a check of every page."""

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import files
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

MATHJAX = "mathjax/tex-svg.js"
# these attributes make a browser fetch something; a plain <a href> does not
LOADING = {"script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"),
           "video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",)}  # fmt: skip
LOADING_LINKS = {"stylesheet", "preload", "prefetch", "modulepreload", "icon", "shortcut", "preconnect", "dns-prefetch"}
EXTERNAL = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
CSS_FETCH = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class _Loads(HTMLParser):
    """Collects the external addresses that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        wanted = [values[name] for name in LOADING.get(tag, ()) if name in values]
        if tag == "link" and LOADING_LINKS & set(values.get("rel", "").lower().split()):
            wanted.append(values.get("href", ""))
        self.found += [value for value in wanted if EXTERNAL.match(value)]
        self.found += CSS_FETCH.findall(values.get("style", ""))


def external_loads(html: str) -> list[str]:
    """Return the addresses outside the book that a browser would fetch for an HTML page."""
    parser = _Loads()
    parser.feed(html)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL | re.IGNORECASE)
    return parser.found + [address for style in styles for address in CSS_FETCH.findall(style)]


def without_thebe(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Drop the scripts of sphinx-thebe, which fetch from outside and fail on every page."""
    context["script_files"] = [script for script in context["script_files"] if not _is_thebe(script)]
    context["css_files"] = [style for style in context["css_files"] if not _is_thebe(style)]


def _is_thebe(asset: Any) -> bool:
    body = getattr(asset, "attributes", {}).get("body") or ""
    return "thebe" in str(getattr(asset, "filename", asset) or "").lower() or "thebe" in body.lower()


def finish(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax into the book, then fail the build if a page or stylesheet would fetch anything from outside."""
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    (static / MATHJAX).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_mathjax(), static / MATHJAX)
    loads = list(_outside(Path(app.outdir)))
    if loads:
        listing = "; ".join(f"{page} fetches {address}" for page, address in loads[:5])
        raise ExtensionError(f"the book must read offline, but {len(loads)} addresses are outside it: {listing}")


def _mathjax() -> Path:
    found = [file for file in files("sphinx-mathjax-offline") or [] if file.name == "tex-svg.js"]
    if not found:
        raise ExtensionError("sphinx-mathjax-offline holds no tex-svg.js; install version 0.0.2")
    return Path(str(found[0].locate()))


def _outside(folder: Path) -> Iterator[tuple[str, str]]:
    for page in sorted(folder.rglob("*.html")):
        if "_static" not in page.relative_to(folder).parts:
            yield from ((page.name, address) for address in external_loads(page.read_text(encoding="utf-8")))
    for style in sorted(folder.rglob("*.css")):
        yield from ((style.name, address) for address in CSS_FETCH.findall(style.read_text(encoding="utf-8")))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.config.mathjax_path = MATHJAX
    app.connect("html-page-context", without_thebe, priority=900)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
