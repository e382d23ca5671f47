"""Which files of tests run first, and what takes long to start: a real browser for the tests of the web
pages, which are skipped, with the reason, where there is none; the small Ray cluster of cluster_kit, with its photos.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_kit import cluster as cluster
from cluster_kit import photos as photos

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files with the most slow tests begin first: what begins last should be short."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests of a module: starting it takes seconds.

    Not for the whole session: Playwright keeps an event loop running in this thread, which other tests must not meet.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as running:
        # No sandbox, since CI is often root in a container: the pages are our own.
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=180_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Build networks with a quarter of ResNet-18's channels: for what is true of any network, in less time.

    With an eighth, 8 channels, PyTorch 2.13 crashes in the backward pass where it has two threads.
    The processes of process_kit have them, too; those that Pupila itself starts do not.
    """
    from pupila.training.export import graph
    from pupila.training.loop import resnet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "WIDTHS", tuple(width // 4 for width in resnet.WIDTHS))
        for module in (resnet, graph):
            patch.setattr(module, "FEATURES", resnet.WIDTHS[-1])
        yield


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Return an id that every process gives: the bytes of a compressed case carry the time of day."""
    return argname if isinstance(val, bytes) else None
