"""A headless Chromium for the page: the machine's own, which Debian's package makes if there is none.

Playwright would download a build of its own, from a host that not every machine reaches, and without the libraries that
it needs.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

VARIABLE = "COAT_BROWSER"
NAMES = ("chromium-headless-shell", "chromium", "google-chrome")
PACKAGE = "chromium-headless-shell"
APT = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300"]


def executable() -> str:
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        found = _install()
    assert found, f"no Chromium: this machine's apt has no {PACKAGE}; name one in {VARIABLE}"
    return found


def _install() -> str | None:
    """The lists of packages that are there may do; they may be missing too, or too old."""
    install = ["install", "--yes", "--no-install-recommends", PACKAGE]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (install, ["update"], install):
        subprocess.run([*APT, *command], stdin=subprocess.DEVNULL, env=environment, timeout=600, check=False)
        if found := shutil.which(PACKAGE):
            return found
    return None


@contextmanager
def chromium() -> Iterator[Browser]:
    """Without a sandbox, for it runs as root like everything in the lab, and is shown nothing but our own page."""
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=executable(), chromium_sandbox=False)


# Text by its colour on what is painted behind it (WCAG 2.2, 1.4.3 and 4.1.2).
FLAWS = """() => {
  const flaws = [];
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = rgb(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const { textContent: text, parentElement: element } = walker.currentNode;
    if (!text.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const front = rgb(element.closest("svg") ? style.fill : style.color).slice(0, 3);
    const [low, high] = [light(front), light(ground(element).slice(0, 3))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) flaws.push(`${text.trim().slice(0, 40)}: contrast ${contrast.toFixed(2)}`);
  }
  for (const one of document.querySelectorAll("button, a, input, select, [role=img], [role=region], dialog")) {
    const told = document.getElementById(one.getAttribute("aria-labelledby"))?.textContent;
    const name = one.getAttribute("aria-label") || told || one.labels?.[0]?.textContent || one.textContent;
    if (!name.trim()) flaws.push(`${one.outerHTML.slice(0, 80)}: no name`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  flaws.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => `${id}: twice`));
  if (document.documentElement.scrollWidth > innerWidth) flaws.push(`wider than the window: ${innerWidth}`);
  return flaws;
}"""

# Every state in which the page has shown a step, in the order in which they came.
WATCH = """() => {
  window.shown = [];
  const look = () => {
    for (const step of document.querySelectorAll(".steps li")) {
      const said = `${step.dataset.step} ${step.className}`;
      if (!window.shown.includes(said)) window.shown.push(said);
    }
  };
  new MutationObserver(look).observe(document.getElementById("migrations"), { childList: true, subtree: true });
}"""


def flaws(page: Page) -> list[str]:
    """What is wrong with the page as it is now: faint text, controls without a name, and the like."""
    found: list[str] = page.evaluate(FLAWS)
    return found


def watch_steps(page: Page) -> None:
    page.evaluate(WATCH)


def shown_steps(page: Page) -> list[str]:
    """``NAME doing`` and ``NAME done`` since ``watch_steps``."""
    found: Any = page.evaluate("window.shown")
    return list(found)
