"""A store that speaks S3's language, on loopback: moto's server, a process of its own with an empty bucket."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from cluster_kit import free_ports

BUCKET = "bucket"


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Return what is added to an s3:// address to reach it; its keys are in the environment."""
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    pytest.importorskip("pyarrow")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch, process:
        for name, value in keys.items():
            patch.setenv(name, value)
        try:
            make_bucket(f"http://127.0.0.1:{port}/{BUCKET}")
            yield f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{port}"
        finally:
            process.kill()


def make_bucket(url: str) -> None:
    """Make it as soon as the server listens."""
    limit = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=30).close()
            return
        except urllib.error.URLError:
            assert time.monotonic() < limit, "the store did not start"
            time.sleep(0.1)
