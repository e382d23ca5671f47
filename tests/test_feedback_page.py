"""The page /review in a real Chromium: a person walks through the pictures and says what they show."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_kit import opened
from PIL import Image
from server_kit import CLASSES, Running, encode, serving, write_model

from pupila.server.api.auth import new_key

SHADES = ((200, 20, 20), (60, 60, 70), (110, 90, 60), (20, 160, 60))
"""From sure to unsure and back, for the tests' model."""


def shades() -> list[bytes]:
    return [encode(Image.new("RGB", (40, 30 + i), shade), "PNG") for i, shade in enumerate(SHADES)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    secret, key = new_key("me", ("admin",))
    settings = {"port": 0, "workers": 1, "feedback_dir": str(tmp_path / "kept"), "api_keys": [key.line()]}
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", json.dumps(settings)) as running:
        running.headers = {"Authorization": f"Bearer {secret}"}
        running.predict(*shades())
        limit = time.monotonic() + 30
        while len(listed(running, "uncertain")) < len(SHADES) and time.monotonic() < limit:
            time.sleep(0.02)
        yield running


def listed(server: Running, show: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.get(f"/review/pictures?show={show}").json()["pictures"]
    return found


def shown(page: Any, picture: dict[str, Any]) -> None:
    """Wait until this picture is on the page."""
    page.locator(f"#picture[data-id='{picture['id']}']").wait_for()
    page.wait_for_function("document.getElementById('picture').naturalWidth > 0")


def test_pictures_are_walked_through_with_the_keyboard_the_least_sure_first(browser: Any, server: Running) -> None:
    order = listed(server, "uncertain")
    assert [one["confidence"] for one in order] == sorted(one["confidence"] for one in order)
    with opened(browser, server.url, "/review", extra_http_headers=server.headers) as page:
        shown(page, order[0])
        assert page.locator("#place").inner_text() == "1 of 4"
        assert order[0]["category"] in page.locator("#answer").inner_text()
        page.keyboard.press("3")  # the third class
        shown(page, order[1])
        page.keyboard.press("n")
        shown(page, order[2])
        page.keyboard.press("ArrowLeft")
        shown(page, order[1])
        assert page.locator("#said").inner_text() == "You said: None of these"
        page.keyboard.press("1")  # changes what was said, and goes on
        shown(page, order[2])
        page.keyboard.press("ArrowRight")
        shown(page, order[3])
        page.locator("#corrected").click()
        shown(page, order[1])
        assert page.locator("#said").inner_text() == f"You said: {CLASSES[0]}"
        assert page.locator("[aria-pressed=true].choice").inner_text().split() == ["1", CLASSES[0]]
    said = {one["id"]: one["correction"] for one in listed(server, "corrected")}
    assert said == {order[0]["id"]: CLASSES[2], order[1]["id"]: CLASSES[0]}


def test_it_can_be_used_with_tab_and_enter_alone_and_keys_can_be_switched_off(browser: Any, server: Running) -> None:
    order = listed(server, "uncertain")
    with opened(browser, server.url, "/review", extra_http_headers=server.headers) as page:
        shown(page, order[0])
        page.locator("#shortcuts").click()
        page.keyboard.press("n")
        page.locator(".choice").first.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        shown(page, order[1])
        assert page.locator(":focus").inner_text().split() == ["2", CLASSES[1]]  # the next picture keeps the place
    assert [one["correction"] for one in listed(server, "corrected")] == [CLASSES[1]]


def test_it_speaks_portuguese(browser: Any, server: Running) -> None:
    with opened(
        browser,
        server.url,
        "/review",
        extra_http_headers=server.headers,
        locale="pt-BR",
        viewport={"width": 360, "height": 700},
    ) as page:
        shown(page, listed(server, "uncertain")[0])
        assert page.locator("h1").inner_text() == "O que estas imagens mostram?"
        assert page.locator(".choice").last.inner_text().split(maxsplit=1) == ["n", "Nenhuma destas"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_picture_can_be_deleted(browser: Any, server: Running) -> None:
    order = listed(server, "uncertain")
    with opened(browser, server.url, "/review", extra_http_headers=server.headers) as page:
        shown(page, order[0])
        page.on("dialog", lambda dialog: dialog.accept())
        page.locator("#delete").click()
        shown(page, order[1])
        assert page.locator("#place").inner_text() == "1 of 3"
    assert [one["id"] for one in listed(server, "uncertain")] == [one["id"] for one in order[1:]]


def test_server_without_keys_says_how_to_review(browser: Any, tmp_path: Path) -> None:
    model, settings = write_model(tmp_path / "colours.onnx"), {"port": 0, "feedback_dir": str(tmp_path / "kept")}
    with (
        serving(model, tmp_path / "log", json.dumps(settings)) as running,
        opened(browser, running.url, "/review", troubled=True) as page,
    ):
        page.get_by_text("pupila feedback review FOLDER").first.wait_for()


def test_axe_finds_no_violation(browser: Any, server: Running) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    with opened(browser, server.url, "/review", extra_http_headers=server.headers, reduced_motion="reduce") as page:
        first, second = listed(server, "uncertain")[:2]
        shown(page, first)
        page.keyboard.press("1")
        shown(page, second)  # the correction is kept
        page.locator("#corrected").click()
        page.locator("[aria-pressed=true].choice").wait_for()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            violations = axe.Axe().run(page).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations] == [], scheme


def test_a_server_that_keeps_nothing_says_so(browser: Any, tmp_path: Path) -> None:
    model = write_model(tmp_path / "colours.onnx")
    with (
        serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as running,
        opened(browser, running.url, "/review", troubled=True) as page,
    ):
        page.get_by_text("keeps no pictures").first.wait_for()


def test_a_key_is_asked_for_and_used(browser: Any, tmp_path: Path) -> None:
    secret, key = new_key("me")
    settings = {
        "port": 0,
        "workers": 1,
        "feedback_dir": str(tmp_path / "kept"),
        "api_keys": [key.line()],
    }
    with (
        serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", json.dumps(settings)) as running,
        opened(browser, running.url, "/review", troubled=True) as page,
    ):
        page.locator("#key-input").wait_for()
        page.keyboard.press("Escape")
        page.locator("#notice", has_text="An API key is needed").wait_for()
        assert page.locator("#key-dialog").count() == 0  # it does not ask again by itself
        page.get_by_role("button", name="API key").click()
        page.locator("#key-input").fill(secret)
        page.keyboard.press("Enter")
        page.get_by_text("There is nothing to look at here.").first.wait_for()
