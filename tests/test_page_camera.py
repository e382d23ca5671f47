"""A photo taken with a computer's camera. Chromium brings a camera for tests, if it is asked for at its start."""

import shutil
from pathlib import Path

import pytest
from conftest import BROWSERS
from page_kit import opened, settle
from server_kit import serving, write_model


def test_a_photo_is_taken_with_a_computers_camera(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    camera = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    model = write_model(tmp_path / "colours.onnx")
    with (
        serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as server,
        playwright.sync_playwright() as running,
    ):
        browser = running.chromium.launch(executable_path=path, args=camera, timeout=180_000)
        with opened(browser, server.url) as page:
            page.locator("#photograph").click()
            page.locator("#camera-dialog button.strong:not([disabled])").click()
            settle(page, 1)
            assert page.locator(".tile .file").inner_text() == "photo.jpg"
        browser.close()
