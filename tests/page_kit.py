"""What the tests of the web pages share: a page that is watched, and ways to hand pictures over to it."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from server_kit import Running, serving

PATIENCE = 90_000
"""Milliseconds that anything may take: machines are busy."""
OPEN = ".tile[data-state=waiting], .tile[data-state=sending]"


@contextlib.contextmanager
def opened(browser: Any, url: str, path: str = "/", troubled: bool = False, **context: Any) -> Iterator[Any]:
    """Open a page of the server; at the end it must have asked no other host, and have had no error.

    `troubled` lets failed requests pass, where the test is about them.
    """
    held = browser.new_context(**{"locale": "en-GB", **context})
    try:
        held.set_default_timeout(PATIENCE)
        page = held.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type in ("error", "warning") else None)
        page.on("filechooser", lambda _: None)  # from the start on, or a chooser may open before it is watched for
        page.goto(url + path)
        yield page
        assert [other for other in asked if not other.startswith((url + "/", f"blob:{url}/"))] == []
        assert [text for text in errors if not (troubled and text.startswith("Failed to load resource"))] == []
    finally:
        held.close()


@contextlib.contextmanager
def visiting(
    browser: Any, model: Path, folder: Path, settings: dict[str, Any], troubled: bool = False
) -> Iterator[tuple[Running, Any]]:
    """Run a server of one worker with these settings, and open its page."""
    chosen = json.dumps({"port": 0, "workers": 1, **settings})
    with serving(model, folder / "log", chosen) as running, opened(browser, running.url, troubled=troubled) as page:
        yield running, page


def choose(page: Any, files: Sequence[Path]) -> None:
    """Choose files as with the button."""
    page.set_input_files("#files", [str(file) for file in files])


def settle(page: Any, count: int) -> None:
    """Wait until there are so many tiles, and none of them waits for its answer."""
    page.locator(".tile").nth(count - 1).wait_for()
    page.locator(OPEN).first.wait_for(state="detached")
    assert page.locator(".tile").count() == count


def categories(page: Any) -> list[str | None]:
    """Return each tile's class as the server named it, None where it has none."""
    return [tile.get_attribute("data-category") for tile in page.locator(".tile").all()]


def drop(page: Any, files: Sequence[Path], selector: str = "main") -> None:
    """Drag files from outside the browser onto an element."""
    box = page.locator(selector).bounding_box()
    events = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"x": box["x"] + 40, "y": box["y"] + 40}
        events.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
    events.detach()
