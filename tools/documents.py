"""Brings documents that lie outside docs/ into the site, and turns links between files into links between pages.

The site has the repository's layout, without "docs/", so that the same links lead to the same place in both.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OUTSIDE = ("*.md", "deploy/**/*.md")
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def outside() -> list[Path]:
    return sorted(path for pattern in OUTSIDE for path in ROOT.glob(pattern))


def place(path: Path) -> str:
    """Where a file of the repository is in the site."""
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()


def source(place: str) -> Path:
    """The file that a place in the site is made of."""
    return DOCS / place if (DOCS / place).exists() else ROOT / place


def linked(document: Path) -> set[Path]:
    """The files of the repository that a document leads to."""
    targets = {(document.parent / match[1]).resolve() for match in LINK.finditer(document.read_text())}
    return {path for path in targets if path.is_file() and path.is_relative_to(ROOT)}


def on_files(files: Files, config: Any) -> Files:
    pages = [*outside(), *DOCS.rglob("*.md")]
    for path in sorted({*pages, *(path for page in pages for path in linked(page))}):
        if not path.is_relative_to(DOCS):
            files.append(File.generated(config, place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    here = source(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = (here.parent / match[1]).resolve()
        if "://" in match[1] or not target.is_file():
            return match[0]
        return f"]({os.path.relpath(place(target), os.path.dirname(place(here)) or '.')}{match[2] or ''})"

    return LINK.sub(moved, markdown)
