"""This project's server, with one option switched on if the third argument names it. Also run by an older version."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pupila.server import Settings, serve

KEY = "benchmark"
"""What post.lua sends."""


def option(name: str) -> dict[str, Any]:
    """Return the settings that switch an option on."""
    if name == "cors":
        return {"cors_origins": ("https://example.org",)}
    if name == "collect":
        return {"feedback_dir": Path(tempfile.mkdtemp())}
    if name == "tls":
        certificate = Path(tempfile.mkdtemp()) / "certificate.pem"
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(certificate)]
        command = ["openssl", "req", "-x509", *key, "-subj", "/CN=localhost", "-out", f"{certificate}.crt"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        return {"tls_certificate": Path(f"{certificate}.crt"), "tls_key": certificate}
    if name == "keys":
        from pupila.server.api.auth import ApiKey, digest_of

        return {"api_keys": (ApiKey("benchmark", digest_of(KEY)),)}
    return {}


if __name__ == "__main__":
    values = option(sys.argv[3]) if len(sys.argv) > 3 else {}
    serve(Path(sys.argv[1]), Settings(port=int(sys.argv[2]), workers=int(os.environ["WORKERS"]), **values))
