"""Where CIFAR-10 as published is found. Knows the address and the hash, and nothing of what is in the archive."""

from pathlib import Path

from pupila.data.sources.download import download
from pupila.errors import DownloadError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"


def fetch_cifar10(folder: Path, url: str = URL, md5: str = MD5) -> Path:
    """Return the path of the archive in `folder`, downloaded (170 MB) unless it lies there; raises DownloadError."""
    try:
        return download(url, folder / "cifar-10-python.tar.gz", md5=md5)
    except DownloadError as error:
        raise DownloadError(
            f"{error} Or give the path of a copy of the archive or of class folders; 'digits' needs no network."
        ) from error
