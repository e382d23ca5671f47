"""Starting weights: torchvision's format loads unchanged, nothing runs on loading, no network is no disaster."""

import functools
import hashlib
import http.server
import pickle
import threading

import pytest
import torch

from pupila.errors import DownloadError, ModelError
from pupila.models import bundled_backbone
from pupila.training import weights
from pupila.training.loop.resnet import ResNet18
from pupila.training.weights import read_weights, save_backbone, starting_network


def published_names():
    """The 122 names of resnet18-f37072fd.pth and their shapes, written down from torchvision's definition."""

    def norm(name, width):
        return {
            **{f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")},
            f"{name}.num_batches_tracked": (),
        }

    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64), "fc.weight": (1000, 512), "fc.bias": (1000,)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            inputs = before if block == 0 else width
            shapes |= {f"{name}.conv1.weight": (width, inputs, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            shapes |= {**norm(f"{name}.bn1", width), **norm(f"{name}.bn2", width)}
            if inputs != width:
                shapes |= {f"{name}.downsample.0.weight": (width, inputs, 1, 1), **norm(f"{name}.downsample.1", width)}
        before = width
    return shapes


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file as torchvision publishes it, with other numbers in it."""
    torch.manual_seed(5)
    state = {n: torch.rand(s) if s else torch.tensor(7) for n, s in published_names().items()}
    path = tmp_path_factory.mktemp("published") / "resnet18-f37072fd.pth"
    torch.save(state, path)
    return path


def test_network_has_the_published_names_and_shapes():
    assert {n: tuple(v.shape) for n, v in ResNet18(1000).state_dict().items()} == published_names()


def test_published_file_loads_unchanged(published):
    state = torch.load(published, weights_only=True)
    network = ResNet18(1000)
    network.load_state_dict(state)
    assert torch.equal(network.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_training_starts_from_its_backbone_with_a_new_head(published):
    start = starting_network(str(published), classes=3, seed=0)
    state = torch.load(published, weights_only=True)
    assert torch.equal(start.network.conv1.weight, state["conv1.weight"])
    assert start.network.fc.weight.shape == (3, 512)
    assert start.origin.startswith("resnet18-f37072fd.pth ")


def test_saved_backbone_is_read_back(tmp_path):
    network = ResNet18(2)
    save_backbone(network, tmp_path / "backbone.safetensors")
    again = starting_network(str(tmp_path / "backbone.safetensors"), classes=5, seed=1).network
    assert torch.allclose(again.conv1.weight, network.conv1.weight, atol=1e-3)


def test_bundled_backbone_knows_how_its_features_vary_within_classes(tmp_path):
    start = starting_network("bundled", 5, 0)
    within = start.network.within
    assert within.shape == (768, 768) and torch.equal(within, within.T)
    spread = within.diagonal().sqrt()
    assert (within / spread / spread[:, None]).abs().max() <= 1.001 and torch.linalg.eigvalsh(within).min() > -1e-3
    save_backbone(start.network, tmp_path / "own.safetensors")
    assert starting_network(str(tmp_path / "own.safetensors"), 5, 0).network.within is None


def test_a_covariance_is_read_from_its_lower_triangle():
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    whole = rows.T @ rows
    triangle = torch.stack([whole[row, column] for row in range(4) for column in range(row + 1)])
    assert torch.equal(weights.covariance_from(triangle), whole)


def test_weights_of_a_stranger_that_claim_to_know_of_classes_are_refused(tmp_path):
    state = {**ResNet18(2).state_dict(), "within": torch.eye(768)}
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(ModelError, match="within is missing, of another shape, or too many"):
        starting_network(str(tmp_path / "own.pth"), 2, 0)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code in a weights file was run",))


def test_pickled_code_is_never_run(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"conv1.weight": Bomb()}))
    with pytest.raises(ModelError, match=r"evil\.pth: is damaged or not a weights file"):
        read_weights(tmp_path / "evil.pth")


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ModelError, match="is damaged"):
        read_weights(tmp_path / name)


def test_missing_file_names_the_alternatives(tmp_path):
    with pytest.raises(ModelError, match="no such weights file"):
        starting_network(str(tmp_path / "none.pth"), 2, 0)


def test_other_network_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="is not a ResNet-18"):
        starting_network(str(tmp_path / "other.pth"), 2, 0)


@pytest.fixture
def web(published, tmp_path, monkeypatch):
    """A web server that has the published file, and an empty cache."""
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=published.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/resnet18-f37072fd.pth"
        server.shutdown()
        thread.join()


def test_file_with_another_hash_than_the_published_is_refused(web):
    with pytest.raises(DownloadError, match="the published file has f37072fd"):
        starting_network("imagenet", 2, 0, url=web)


def test_imagenet_weights_are_fetched_checked_and_cached(web, published, monkeypatch):
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "IMAGENET_SHA256_PREFIX", digest[:8])  # the published file's own is another
    assert starting_network("imagenet", 2, 0, url=web).origin == "imagenet"
    nowhere = "http://127.0.0.1:9/resnet18-f37072fd.pth"
    assert starting_network("auto", 2, 0, url=nowhere).origin == "imagenet"


def test_auto_without_network_starts_from_the_bundled_backbone_and_says_why(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path))
    start = starting_network("auto", 2, 0, url="http://127.0.0.1:9/resnet18-f37072fd.pth")
    digest = hashlib.sha256(bundled_backbone().read_bytes()).hexdigest()
    assert start.origin == f"bundled {digest[:12]}"
    assert caplog.messages[0].startswith("Starting from the bundled backbone, since ImageNet's weights cannot")


def test_auto_takes_imagenet_where_it_can_be_had_and_says_so(web, published, monkeypatch, caplog):
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "IMAGENET_SHA256_PREFIX", digest[:8])
    assert starting_network("auto", 2, 0, url=web).origin == "imagenet"
    assert "Starting from ImageNet's weights" in caplog.text


def test_bundled_backbone_is_a_whole_backbone_in_half_precision():
    state = read_weights(bundled_backbone())
    wanted = {n: s for n, s in published_names().items() if not n.startswith("fc.") and "num_batches" not in n}
    assert {name: tuple(value.shape) for name, value in state.items()} == wanted
    assert {value.dtype for name, value in state.items() if value.is_floating_point()} == {torch.float16}
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert bundled_backbone().stat().st_size < 23e6


def test_imagenet_without_network_names_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match="other weights: bundled, none"):
        starting_network("imagenet", 2, 0, url="http://127.0.0.1:9/resnet18-f37072fd.pth")
