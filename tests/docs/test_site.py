"""The built pages work from disk: every link leads somewhere, nothing is fetched, the search finds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import in_browser

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Page(HTMLParser):
    """Where a page's links lead, what its browser loads by itself, and which anchors it has."""

    path: Path
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif "href" in values and values.get("rel") != "canonical":
            self.loads.append(values["href"])
        if "src" in values:
            self.loads.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the built pages."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    # A server shows 404.html at any address, so its links begin at the root.
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def _dead(pages: dict[Path, Page], start: Path, links: Iterator[str] | list[str]) -> Iterator[str]:
    """Those of a page's links that lead to no file, or to no place in it."""
    for link in links:
        address = urlsplit(link)
        if address.scheme or address.netloc:
            continue
        file = (start.parent / unquote(address.path)).resolve() if address.path else start
        anchor = unquote(address.fragment)
        if not file.is_file() or (anchor and file in pages and anchor not in pages[file].anchors):
            yield link


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    assert sum(len(page.links) for page in pages.values()) > 1000
    dead = {path.name: found for path, page in pages.items() if (found := [*_dead(pages, path, page.links)])}
    assert not dead


def test_a_dead_link_would_be_found(pages: dict[Path, Page], site: Path) -> None:
    links = ["faq.html#no-such-place", "no-such-page.html", "targets/", "faq.html", "https://example.org"]
    assert [*_dead(pages, site / "index.html", links)] == links[:3]


def test_nothing_is_fetched_from_the_web(pages: dict[Path, Page], site: Path) -> None:
    """Scripts, styles, fonts and pictures are files of the site."""
    for path, page in pages.items():
        assert page.loads and not [*_dead(pages, path, page.loads)]
        assert not [url for url in page.loads if re.match(r"(\w+:)?//", url)]
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text())


def test_long_commands_wrap(pages: dict[Path, Page], site: Path) -> None:
    assert "pre-wrap" in (site / "assets" / "code.css").read_text()
    assert all(any(url.endswith("assets/code.css") for url in page.loads) for page in pages.values())


def test_the_readmes_links_lead_somewhere(pages: dict[Path, Page], site: Path) -> None:
    """As files of the repository, and as anchors of the pages that are built from them."""
    links = re.findall(r"\]\(([^)\s]+)\)", (ROOT / "README.md").read_text())
    inside = [urlsplit(link) for link in links if not urlsplit(link).scheme]
    assert len(inside) > 20
    assert not [link.path for link in inside if not (ROOT / link.path).exists()]
    built = {page.path.relative_to(site).with_suffix(".md"): page for page in pages.values()}
    for link in inside:
        if link.fragment:
            assert link.fragment in built[Path(link.path).relative_to("docs")].anchors


def test_the_index_of_the_search_is_a_script(site: Path) -> None:
    """Which is what pages from disk may load; as JSON alone the browser refuses it."""
    script = (site / "search" / "search_index.js").read_text()
    index = json.loads(script.removeprefix("var __index = "))
    assert {"getting-started.html", "reference/cli.html"} <= {each["location"] for each in index["docs"]}
    assert "IFrameWorker" in (site / "assets" / "iframe-worker.js").read_text()


def test_the_search_finds_in_a_browser(site: Path, tmp_path: Path) -> None:
    address = (site / "reference" / "cli.html").as_uri() + "?q=emulated"
    command = in_browser(tmp_path, "--virtual-time-budget=20000", "--dump-dom", address)
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.findall(r'<a href="([^"]*)" class="md-search-result__link', shown)
    assert (site / "targets-arm.html").as_uri() in found
