"""Pages from outside docs/ on the site, and links between all of them as in the repository."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
"""Pages by their place in the repository, with their place on the site."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages and images that lie outside docs/."""
    for path, page in _outside().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Turn links that hold in the repository into links that hold on the site.

    A link to a file that is on no page of the site, such as a module, becomes its text.
    """
    places = _outside()
    here = next(
        (path for path, site in places.items() if site == page.file.src_uri),
        f"docs/{page.file.src_uri}",
    )

    def moved(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        site = places.get(wanted, wanted.removeprefix("docs/"))
        if files.get_file_from_path(site) is None and (ROOT / wanted).exists():
            return text
        start = posixpath.dirname(page.file.src_uri)
        relative = posixpath.relpath(site, start or ".")
        return f"{image}[{text}]({relative}{'#' + anchor if anchor else ''})"

    return LINK.sub(moved, markdown)


def _outside() -> dict[str, str]:
    tables = [p.relative_to(ROOT).as_posix() for p in (ROOT / "leaderboards").rglob("*")]
    return OUTSIDE | {path: path for path in tables if path.endswith((".md", ".png"))}
