"""A server with little: nothing to write to, a tiny /dev/shm, no home, another user. In Linux's own namespaces."""

import json
from pathlib import Path

import flask
import pytest
from deploy_kit import ROOT, Box, box, why_no_box
from server_kit import picture, wait_until, write_model

WHY_NOT = why_no_box()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
NOBODY = ["setpriv", "--reuid=23456", "--regid=23456", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
ASK = ["curl", "-sS", "--max-time", "20"]


def confine(made: Box, folder: Path, keep_tmp: bool) -> None:
    """Put Pupila, a model and a picture into a box, and take everything from it that can be written to."""
    made.mount(Path(flask.__file__).parents[1], "opt/packages")
    made.mount(ROOT / "src", "opt/src")
    write_model(made.root / "model.onnx")
    (made.root / "red.png").write_bytes(picture("red", size=(900, 900)))
    for path in (folder, made.root, made.root / "model.onnx", made.root / "red.png"):
        path.chmod(0o755)
    made.outside("mount", "-t", "tmpfs", "-o", "size=16k,mode=1777", "tmpfs", str(made.root / "dev" / "shm"))
    made.freeze()
    if not keep_tmp:
        made.outside("mount", "-o", "remount,ro", str(made.root / "tmp"))
    made.environment = {
        **{name: value for name, value in made.environment.items() if name != "HOME"},
        "PYTHONPATH": "/opt/src:/opt/packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PUPILA_PORT": "8080",
        "PUPILA_WORKERS": "2",
        "PUPILA_ACCESS_LOG": "-",
    }
    made.user = NOBODY


@pytest.mark.parametrize("keep_tmp", [True, False], ids=["only-tmp", "nothing"])
def test_a_server_answers_where_it_can_write_nowhere(tmp_path: Path, keep_tmp: bool) -> None:
    with box(tmp_path / "root") as made:
        confine(made, tmp_path, keep_tmp)
        assert made.run(["sh", "-c", "touch /opt/x /tmp/x"]).returncode != 0
        process = made.start(["python", "-m", "pupila", "serve", "/model.onnx"])
        try:
            wait_until(lambda: '"ready"' in made.run([*ASK, "http://127.0.0.1:8080/readyz"]).stdout, 60)
            url = "http://127.0.0.1:8080/predict?explain=1"
            answer = made.run([*ASK, "-F", "file=@/red.png", "-F", "file=@/red.png", url])
            found = json.loads(answer.stdout)["predictions"]
        finally:
            process.terminate()
            output = process.communicate(timeout=30)[0]
    assert [entry["category"] for entry in found] == ["red", "red"]
    assert "Traceback" not in output and "telemetry" not in output and process.returncode in (0, -15)
    assert any(json.loads(line)["path"] == "/predict" for line in output.splitlines() if line.startswith("{"))
