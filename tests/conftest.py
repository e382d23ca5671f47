"""Which tests run together under pytest-xdist, and what takes long to start: a real browser for the tests of the web
pages, which are skipped, with the reason, where there is none; the small Ray cluster of cluster_kit, with its photos.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_kit import cluster as cluster
from cluster_kit import photos as photos

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make each file a group, which shares what its fixtures start, and let files with slow tests begin first.

    All that start a Ray cluster are one group.
    """
    slow: dict[str, int] = {}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            group = "cluster" if "cluster" in getattr(item, "fixturenames", ()) else item.path.stem
            item.add_marker(pytest.mark.xdist_group(group))
        slow[_group(item)] = slow.get(_group(item), 0) - (item.get_closest_marker("slow") is not None)
    items.sort(key=lambda item: slow[_group(item)])


def _group(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


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
