"""Checkpoints at an address: a run that lost its disk goes on from there."""

import pytest
import torch
from store_kit import BUCKET, store  # noqa: F401 - a fixture
from training_kit import TINY, colours

from pupila.errors import TrainingError
from pupila.training.loop.checkpoint import Mirror
from pupila.training.loop.fit import fit
from pupila.training.loop.resnet import ResNet18

pytestmark = pytest.mark.usefixtures("narrow")


class LostError(Exception):
    pass


def run(folder, address, **options):
    torch.manual_seed(0)
    checkpoint = folder / "checkpoint.safetensors"
    data = colours(30), colours(15, seed=1)
    return fit(TINY, ResNet18(3), *data, checkpoint, identity={}, mirror=Mirror(address), **options)


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_run_that_lost_its_disk_goes_on_from_the_copy(tmp_path, kind, request):
    address, query = f"file://{tmp_path}/store", ""
    if kind == "s3":
        address, query = f"s3://{BUCKET}/runs", request.getfixturevalue("store")
    undisturbed = run(tmp_path, f"{address}/undisturbed{query}")

    def lose(_):
        raise LostError

    (tmp_path / "first").mkdir()
    with pytest.raises(LostError):
        run(tmp_path / "first", f"{address}/lost{query}", checkpoint_seconds=0.0, on_epoch=lose)
    (tmp_path / "second").mkdir()
    epochs = []
    again = {"resume": True, "on_epoch": lambda rows: epochs.append(rows[-1]["epoch"])}
    resumed = run(tmp_path / "second", f"{address}/lost{query}", **again)
    assert epochs == [2]
    ours, theirs = resumed.network.state_dict(), undisturbed.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_address_that_holds_a_run_is_refused(tmp_path):
    mirror = Mirror(f"memory://{tmp_path.name}")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"of another run")
    mirror.put(tmp_path / "checkpoint.safetensors")
    with pytest.raises(TrainingError, match="holds a run already"):
        run(tmp_path, f"memory://{tmp_path.name}")


def test_unknown_kind_of_address_is_named():
    with pytest.raises(TrainingError, match="nonsense://here: cannot be used"):
        Mirror("nonsense://here")


def test_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    (tmp_path / "checkpoint.safetensors").write_bytes(b"x")
    with pytest.raises(TrainingError, match=r"store/checkpoint\.safetensors: cannot be written"):
        Mirror(f"file://{tmp_path}/store").put(tmp_path / "checkpoint.safetensors")
