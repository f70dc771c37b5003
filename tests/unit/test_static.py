"""The page's files as they are served: what they are, what they may do, and that nothing else comes along with them."""

import re

import pytest

from coat_ryu import static
from coat_ryu.saga import STEPS
from tests.unit.test_doors import doors
from tests.unit.test_rest import ask

KINDS = {"index.html": "text/html", "app.js": "text/javascript", "style.css": "text/css", "icon.svg": "image/svg+xml"}
FILES = sorted(static.FOLDER.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_every_file_is_served_as_what_it_is(name: str) -> None:
    response, _ = ask("GET", f"/ui/{name}")
    assert (response.status_int, response.body) == (200, (static.FOLDER / name).read_bytes())
    assert response.content_type == KINDS.get(name, "text/javascript")
    assert response.charset == "utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy and "http" not in policy


def test_the_page_is_the_index() -> None:
    response, _ = ask("GET", "/ui")
    assert (response.status_int, response.content_type) == (200, "text/html")
    assert response.body == (static.FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/ui/",
        "/ui/nothing.js",
        "/ui/../rest.py",
        "/ui/..%2Frest.py",
        "/ui/%2e%2e/rest.py",
        "/ui//etc/passwd",
        "/ui/%2Fetc%2Fpasswd",
        "/ui/..",
        "/ui/.",
        "/ui/app.js%00",
        "/ui/app.js/",
        "/UI",
    ],
)
def test_nothing_else_is_there(path: str) -> None:
    response, _ = ask("GET", path)
    assert (response.status_int, response.json["cause"]) == (404, "no_such_path")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/ui", "/ui/app.js"])
def test_it_is_for_reading(method: str, path: str) -> None:
    response, _ = ask(method, path)
    assert (response.status_int, response.headers["Allow"]) == (405, "GET")


def test_a_browser_without_a_token_gets_the_page_and_nothing_of_the_controller() -> None:
    for path in ("/ui", "/ui/app.js"):
        response, _ = ask("GET", path, None, doors())
        assert response.status_int == 200
    response, _ = ask("GET", "/v1.0/topology", None, doors())
    assert response.status_int == 401


def test_the_doors_hold_for_the_page_too() -> None:
    response, _ = ask("GET", "/ui", Host="evil.example")
    assert (response.status_int, response.json["cause"]) == (403, "foreign_host")
    from_elsewhere, _ = ask("GET", "/ui/app.js", Origin="http://evil.example")
    assert from_elsewhere.status_int == 403


def test_all_that_it_names_is_there_and_nothing_comes_from_elsewhere() -> None:
    page = (static.FOLDER / "index.html").read_text()
    names = {path.name for path in FILES}
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert named and {name.removeprefix("ui/") for name in named} <= names
    imported = {name for script in SCRIPTS for name in re.findall(r' from "\./([^"]+)"', script.read_text())}
    assert imported | {"app.js"} == {script.name for script in SCRIPTS}
    for path in FILES:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.\w", text), path.name


def test_no_script_makes_markup_of_text() -> None:
    markup = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc"
    )
    assert [script.name for script in SCRIPTS if markup.search(script.read_text())] == []
    page = (static.FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)| on\w+=|<style|style=", page)


def test_files_stay_small() -> None:
    assert [path.name for path in FILES if len(path.read_text().splitlines()) > 400] == []


def test_every_step_has_its_colour() -> None:
    listed = (static.FOLDER / "history.js").read_text().partition("const STEPS = [")[2].partition("]")[0]
    assert set(re.findall(r'"(\w+)"', listed)) == set(STEPS)
    style = (static.FOLDER / "style.css").read_text()
    assert set(re.findall(r"^\.step-(\w+)", style, re.MULTILINE)) == {*STEPS, "undo"}
