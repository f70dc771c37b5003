"""The page in a real browser: a container is sent to another host, by keyboard and by mouse, while it is in use."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from mininet_scenarios.experiment import Controller
from mininet_scenarios.lab import Lab
from mininet_scenarios.upkeep import Pulse, goes_on
from tests.lab.browser import chromium, flaws, shown_steps, watch_steps
from tests.lab.helpers import EDGES, get, wait_for, workload

PATIENCE = 30_000
EVIL = "<img src=x onerror=window.hacked=1>"
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    """A new browser's page, with nothing in its storage. What it asks for is the controller's, and it has no errors."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        made = context.new_page()
        made.set_default_timeout(PATIENCE)
        asked: list[str] = []
        errors: list[str] = []
        made.on("request", lambda request: asked.append(request.url))
        made.on("pageerror", lambda error: errors.append(str(error)))
        yield made
        assert [url for url in asked if not url.startswith(f"{lab.rest}/")] == []
        assert errors == []


def visit(page: Page, lab: Lab) -> Page:
    page.goto(f"{lab.rest}/ui")
    expect(page.locator("#connection")).to_have_text("live")
    return page


def choose(page: Page, name: str, to: str) -> None:
    page.locator(f'[data-container="{name}"]').click()
    page.locator("#move-to").select_option(to)
    expect(page.locator("#move-plan")).to_contain_text("Frozen for about")


def other(controller: Controller, name: str) -> str:
    return EDGES[controller.where(name) == EDGES[0]]


def test_by_keyboard_while_sockperf_runs(page: Page, lab: Lab, controller: Controller, pinged: Pulse) -> None:
    name = "sockperf-server"
    to = other(controller, name)
    watch_steps(visit(page, lab))
    press_until(page, "Tab", f"document.activeElement.dataset.container === {name!r}")
    page.keyboard.press("Enter")
    press_until(page, "ArrowDown", f"document.getElementById('move-to').value === {to!r}")
    expect(page.locator("#move-plan")).to_contain_text("Frozen for about")
    press_until(page, "Tab", "document.activeElement.id === 'move-go'")
    page.keyboard.press("Enter")
    expect(page.locator("#moving .succeeded")).to_be_visible()
    assert goes_on(lab, "device", "sockperf-client", pinged, 10), "the same connection, and more bytes in it"
    (record,) = get(lab, "/v1.0/migrations?limit=1")
    assert (record["container"], record["destination"], record["state"]) == (name, to, "succeeded")
    steps = [step["name"] for step in record["steps"]]
    shown = shown_steps(page)
    assert [said.removesuffix(" done") for said in shown if said.endswith(" done")] == steps
    assert [said for said in shown if said.endswith(" broken")] == []
    # One that takes a millisecond begins and ends in one piece of the stream.
    assert {"preflight doing", "prepare doing", "checkpoint doing", "finish doing"} <= set(shown)
    expect(page.locator(f'[data-node="{to}"] [data-container="{name}"]')).to_be_focused()
    row = page.locator(f'#history tr[data-id="{record["id"]}"]')
    expect(row).to_contain_text("succeeded")
    expect(row.locator(".bar span")).to_have_count(len(steps))


@pytest.fixture
def pinged(lab: Lab) -> Iterator[Pulse]:
    """The connection of a sockperf client, from before its server is moved until after that."""
    load = workload(lab, "sockperf", 300)
    load.start()
    try:
        yield Pulse.of(lab, "device", "sockperf-client")
    finally:
        lab.exec("device", ["pkill", "--full", "^sockperf ping-pong"], check=False)
        load.stop()


def press_until(page: Page, key: str, true: str) -> None:
    for _ in range(30):
        if page.evaluate(true):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} never makes this true: {true}")


def test_by_drag_and_drop(page: Page, lab: Lab, controller: Controller) -> None:
    name = "iperf3-server"
    to = other(controller, name)
    chip, target = (visit(page, lab).locator(one) for one in (f'[data-container="{name}"]', f'[data-node="{to}"]'))
    hold(page, chip)
    over(page, target)
    expect(target).to_have_class("node up over")
    page.keyboard.press("Escape")
    page.mouse.up()
    expect(page.locator("#move")).to_be_hidden()
    hold(page, chip)
    over(page, target)
    page.mouse.up()
    expect(page.locator("#move-to")).to_have_value(to)
    expect(page.locator("#move-go")).to_be_focused()
    expect(page.locator("#move-plan")).to_contain_text("Frozen for about")
    before = len(get(lab, "/v1.0/migrations"))
    page.route("**/migrate", answer_is_lost, times=1)
    page.locator("#move-go").click()
    expect(page.locator("#moving .succeeded")).to_contain_text(f"{name}: ")
    assert len(get(lab, "/v1.0/migrations")) == before + 1, "asked twice, begun once"
    expect(target.locator(chip)).to_have_class("container running")
    assert controller.where(name) == to


def answer_is_lost(route: Route) -> None:
    route.fetch()
    route.abort()


def place(one: Any) -> Any:
    """Of something that is drawn anew now and then, and has none in that moment."""
    return wait_for(one.bounding_box, what="a place in the picture")


def hold(page: Page, chip: Any) -> None:
    box = place(chip)
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.down()


def over(page: Page, target: Any) -> None:
    box = place(target)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)


def test_taken_back_on_the_page(page: Page, lab: Lab, controller: Controller) -> None:
    """In the mode with the longest way to the point of no return, for a browser is not as quick as an API."""
    name = "iperf3-server"
    here = controller.where(name)
    choose(visit(page, lab), name, other(controller, name))
    page.locator("#move-mode").select_option("sequential")
    expect(page.locator("#move-go")).to_have_attribute("aria-disabled", "false")
    page.locator("#move-go").click()
    page.get_by_role("button", name="Abort", exact=True).click()
    outcome = page.locator("#moving .rolled_back")
    expect(outcome).to_contain_text("rolled back")
    expect(outcome).to_contain_text("aborted")
    expect(page.locator("#history tbody tr").first).to_contain_text("rolled back")
    assert controller.where(name) == here
    page.locator("#history tbody button").last.click()
    expect(page.locator("#moving h3")).to_be_focused()


def test_a_refusal_can_be_read(page: Page, lab: Lab, made: Any) -> None:
    """What speaks against it when it is planned, and what happened between the plan and the request."""
    made("page-ends", "edge1", "python", "sleep", "infinity")
    choose(visit(page, lab), "page-ends", "edge2")
    lab.exec("edge1", ["podman", "kill", "page-ends"])
    page.locator("#move-go").click()
    error = page.get_by_role("alert")
    expect(error).to_contain_text("page-ends is stopped on edge1; only a running one can move")
    assert flaws(page) == []
    page.get_by_role("button", name="Dismiss").click()
    expect(error).to_be_empty()
    page.locator('[data-container="page-ends"]').click()
    expect(page.locator("#move-plan")).to_contain_text("page-ends is stopped on edge1, not running")
    expect(page.locator("#move-go")).to_have_attribute("aria-disabled", "true")
    page.locator("#move-go").press("Enter")
    expect(page.locator("#move")).to_be_visible()
    assert flaws(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#move")).to_be_hidden()
    assert [one for one in get(lab, "/v1.0/migrations") if one["container"] == "page-ends"] == []


def altered(route: Route, alter: Any) -> None:
    """The controller's own answer, but for what ``alter`` does to it."""
    answer = route.fetch()
    body = answer.json()
    alter(body)
    route.fulfill(response=answer, body=json.dumps(body))


def test_what_a_server_says_is_text(page: Page, lab: Lab) -> None:
    """Names with markup, which this controller refuses, and errors with markup, which a host could send."""

    def evil_container(body: list[dict[str, Any]]) -> None:
        body[0].update(name=EVIL, problem=EVIL, image=EVIL)

    def evil_node(body: list[dict[str, Any]]) -> None:
        body[0].update(ready=False, error=EVIL)

    def broken_tunnel(body: dict[str, Any]) -> None:
        body["tunnels"][0].update(up=False, down_at=[EVIL])

    def evil_record(body: list[dict[str, Any]]) -> None:
        body[0].update(container=EVIL, state="failed", error={"cause": EVIL, "message": EVIL})

    page.route("**/v1.0/containers", lambda route: altered(route, evil_container))
    page.route("**/v1.0/nodes", lambda route: altered(route, evil_node))
    page.route("**/v1.0/topology", lambda route: altered(route, broken_tunnel))
    page.route("**/v1.0/migrations?*", lambda route: altered(route, evil_record))
    visit(page, lab)
    for place in ("#graph .chip-name", "#graph .problem", "#history button"):
        expect(page.locator(place, has_text=EVIL).first).to_have_text(EVIL)
    expect(page.locator("#graph .node.down .state")).to_have_text("not ready")
    expect(page.locator("#graph svg")).to_contain_text("down")
    page.locator("#history button", has_text=EVIL).click()
    expect(page.locator("#moving .reason")).to_contain_text(EVIL)
    page.locator("#graph .container", has_text=EVIL).click()
    expect(page.locator("#move-title")).to_have_text(f"Move {EVIL}")
    expect(page.locator("#move-plan .reason").first).to_be_visible()
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_token_is_asked_for_and_kept_for_this_tab_alone(page: Page, lab: Lab) -> None:
    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer good":
            route.continue_()
        else:
            said = {"cause": "unauthorized", "message": "a bearer token is wanted", "response": 401}
            route.fulfill(status=401, content_type="application/json", body=json.dumps(said))

    page.route("**/v1.0/**", guarded)
    page.goto(f"{lab.rest}/ui")
    for token in ("bad", "good"):
        expect(page.get_by_role("alert")).to_contain_text("a bearer token is wanted")
        expect(page.get_by_label("Token")).to_be_focused()
        assert flaws(page) == []
        page.keyboard.type(token)
        page.keyboard.press("Enter")
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.get_by_label("Token")).to_be_hidden()
    page.reload()
    expect(page.locator("#connection")).to_have_text("live")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_everybody_can_read_it(browser: Browser, lab: Lab, scheme: Any, width: int) -> None:
    size: Any = {"width": width, "height": 800}
    with browser.new_context(color_scheme=scheme, viewport=size, reduced_motion="reduce") as context:
        page = visit(context.new_page(), lab)
        assert flaws(page) == []
        cards = [card.bounding_box() for card in page.locator(".node").all()]
        assert len(cards) == 3 and not any(touch(one, two) for one in cards for two in cards if one is not two)
        page.locator('[data-container="iperf3-server"]').click()
        expect(page.locator("#move-plan")).to_contain_text("Frozen for about")
        assert flaws(page) == []
        assert page.evaluate("document.getAnimations().length") == 0


def touch(one: Any, two: Any) -> bool:
    return all(
        one[at] < two[at] + two[size] and two[at] < one[at] + one[size]
        for at, size in (("x", "width"), ("y", "height"))
    )


def test_it_finds_the_controller_again(page: Page, lab: Lab) -> None:
    events = "**/v1.0/events"
    page.route(events, lambda route: route.fulfill(content_type="text/event-stream", body=": that was all\n\n"))
    page.goto(f"{lab.rest}/ui")
    expect(page.locator("#connection")).to_have_text("connecting again")
    page.unroute(events)
    page.route("**/v1.0/containers", lambda route: altered(route, list.clear))
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator(".container")).to_have_count(0)
