"""A weights file of a stranger is refused before it takes time or memory; what PyTorch writes is read."""

import io
import json
import pickle
import pickletools
import re
import struct
import time
import tomllib
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from pupila.errors import ModelError
from pupila.training import state_file
from pupila.training.loop.resnet import ResNet18
from pupila.training.weights import MAX_BYTES, MAX_HEADER, read_weights, starting_network

START, STOP = b"\x80\x02}", b"K\x01s."
"""A dictionary, and the end that puts a 1 at the key before it."""
PAIR_OF_PAIRS = b"K\x01\x85q\0" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60))
STATE = ResNet18(2).state_dict()
HOSTILE = {
    "a key whose hash takes 2^60 steps": START + PAIR_OF_PAIRS + STOP,
    "a key nested beyond the stack": START + b"K\x01" + b"\x85" * 99_000 + STOP,
    "instructions without end": START + b"K\x01K\x01s" * 40_000 + b".",
    "an OrderedDict of a dictionary, again and again": b"\x80\x02ccollections\nOrderedDict\nq\0}q\1(h\0h\1\x85R" + STOP,
    "keys that all have the same hash": START
    + b"".join(b"\x8a\x0a" + (key * (2**61 - 1)).to_bytes(10, "little") + b"Ns" for key in range(1, 30_000))
    + b".",
    "tuples as keys, whose hashes are the same": START + b"K\x01K\x02\x86" + STOP,
    "tuples as keys of OrderedDict": b"\x80\x02ccollections\nOrderedDict\n](](K\1K\2\x86Kee\x85R.",
    "pairs of tuples for OrderedDict": b"\x80\x02ccollections\nOrderedDict\nK\1\x85N\x86\x85\x85R.",
    "a call that PyTorch allows, and no state dict needs": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
}


def packed(pickled: bytes, name: str = "data.pkl", kind: int = zipfile.ZIP_STORED, filling: int = 0) -> bytes:
    """Return a .pth as torch.save writes it, with another pickle in it."""
    saved, made = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1)}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(made, "w", kind) as target:
        for member in source.namelist():
            if member.endswith("data.pkl"):
                target.writestr(member.replace("data.pkl", name), pickled)
            else:
                target.writestr(member, source.read(member) + bytes(filling))
    return made.getvalue()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL"])
def test_pickle_that_takes_time_or_memory_is_refused(tmp_path: Path, what: str, name: str) -> None:
    with pytest.raises(ModelError, match=r"bad\.pth: is (damaged or|not a plain)") as refused:
        read_weights(written(tmp_path / "bad.pth", packed(HOSTILE[what], name)))
    assert str(refused.value.__cause__).startswith("its pickle ")


def test_pickle_of_the_old_form_is_checked_too(tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, saved, _use_new_zipfile_serialization=False)
    start = saved.getvalue().index(b"\x80\x02}q\0X\1\0\0\0aq\1")
    bad = saved.getvalue()[:start] + HOSTILE["a key whose hash takes 2^60 steps"] + saved.getvalue()[start:]
    with pytest.raises(ModelError) as refused:
        read_weights(written(tmp_path / "old.pth", bad))
    assert str(refused.value.__cause__).startswith("its pickle ")


def legacy(state: dict[str, Tensor]) -> tuple[bytes, int]:
    """Return a file of the form before PyTorch 1.6, and where the list of its numbers' names begins."""
    saved = io.BytesIO()
    torch.save(state, saved, _use_new_zipfile_serialization=False)
    read = io.BytesIO(saved.getvalue())
    for _ in range(state_file.LEGACY_PICKLES - 1):
        list(pickletools.genops(read))
    return saved.getvalue(), read.tell()


@pytest.mark.parametrize("left", [0, 44_700_000])
def test_old_form_without_its_numbers_is_refused(tmp_path: Path, left: int) -> None:
    """PyTorch would take what lies in memory for those that its list does not name."""
    data, names = legacy(STATE)
    bad = data[:names] + pickle.dumps([], protocol=2) + bytes(left)
    with pytest.raises(ModelError, match=r"old\.pth: is damaged") as refused:
        starting_network(str(written(tmp_path / "old.pth", bad)), 2, 0)
    assert "numbers" in str(refused.value.__cause__)


def test_numbers_that_the_old_form_does_not_list_are_none_of_the_memory(tmp_path: Path) -> None:
    data, names = legacy({"a": torch.ones(100_000)})
    bad = data[:names] + pickle.dumps([], protocol=2)
    state = read_weights(written(tmp_path / "old.pth", bad + bytes(8 + 400_000)))
    assert not state["a"].any()


def test_storage_of_the_old_form_that_grows_is_refused(tmp_path: Path) -> None:
    """A tensor makes its storage larger where it needs more, and the rest stays as the memory was."""
    data, names = legacy({"a": torch.ones(7, 3)})
    larger = data[:names].replace(b"K\x07K\x03\x86", b"M\x07\x77K\x03\x86")
    assert larger != data[:names]
    bad = larger + pickle.dumps([], protocol=2) + bytes(8 + 7 * 3 * 4)
    with pytest.raises(ModelError, match="damaged") as refused:
        read_weights(written(tmp_path / "old.pth", bad))
    assert "other sizes" in str(refused.value.__cause__)


@pytest.mark.parametrize("zipped", [True, False])
def test_long_text_in_a_pickle_is_refused_unread(tmp_path: Path, zipped: bool) -> None:
    text = b"\x80\x02X" + struct.pack("<I", 50 * 2**20) + b"a" * (50 * 2**20 - 4) + "\U0001f600".encode() + b"."
    tracemalloc.start()
    with pytest.raises(ModelError, match=r"long\.pth: is damaged"):
        read_weights(written(tmp_path / "long.pth", packed(text) if zipped else text))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 50 * 2**20, "three times the file; such a text takes eight times its bytes"


@pytest.mark.parametrize("hidden", [b"items", b"keys", b"values"])
def test_attributes_of_a_state_dict_hide_no_method(tmp_path: Path, hidden: bytes) -> None:
    build = b"\x80\x02ccollections\nOrderedDict\n)R}X" + struct.pack("<I", len(hidden)) + hidden + b"K\x01sb."
    with pytest.raises(ModelError, match=r"bad\.pth.*: is "):
        starting_network(str(written(tmp_path / "bad.pth", packed(build))), 2, 0)


@pytest.mark.parametrize("name", ["long.pth", "long.safetensors"])
def test_long_name_of_a_tensor_is_not_shown(tmp_path: Path, name: str) -> None:
    state = {"\x1b" * 100_000: torch.zeros(1)}
    path = tmp_path / name
    torch.save(state, path) if path.suffix == ".pth" else path.write_bytes(save(state))
    with pytest.raises(ModelError, match="is not a plain state dict") as refused:
        starting_network(str(path), 2, 0)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("kind", ["F4", "F8_E4M3", "C64"])
def test_numbers_that_a_network_has_none_of_are_refused(tmp_path: Path, kind: str) -> None:
    head = {"bn1.weight": {"dtype": kind, "shape": [128], "data_offsets": [0, {"F4": 64, "C64": 1024}.get(kind, 128)]}}
    text = json.dumps(head).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(head["bn1.weight"]["data_offsets"][1])
    with pytest.raises(ModelError, match=r"w\.safetensors: is not a plain state dict"):
        read_weights(written(tmp_path / "w.safetensors", data))


@pytest.mark.parametrize("zipped", [True, False])
def test_whole_network_in_either_form_is_read(tmp_path: Path, zipped: bool) -> None:
    network = ResNet18(3)
    torch.save(network.state_dict(), tmp_path / "mine.pth", _use_new_zipfile_serialization=zipped)
    start = starting_network(str(tmp_path / "mine.pth"), 2, 0)
    assert torch.equal(start.network.layer4[1].conv2.weight, network.layer4[1].conv2.weight)


def test_records_that_unpack_to_more_are_refused(tmp_path: Path) -> None:
    bad = packed(b"\x80\x02}.", kind=zipfile.ZIP_DEFLATED, filling=10**7)
    with pytest.raises(ModelError) as refused:
        read_weights(written(tmp_path / "bomb.pth", bad))
    assert "packed" in str(refused.value.__cause__)


def test_extra_fields_of_records_are_counted_before_they_are_read(tmp_path: Path) -> None:
    """zipfile takes the square of them: 1,000 records of 64 KiB took 25 seconds."""
    made, extra = io.BytesIO(), struct.pack("<HH", 0xCAFE, 0) * (65_532 // 4)
    with zipfile.ZipFile(made, "w") as archive:
        for number in range(100):
            archive.writestr(f"a/{number}", b"")
        for member in archive.infolist():
            member.extra = extra
    path = written(tmp_path / "bad.pth", made.getvalue())
    begun = time.process_time()
    with pytest.raises(ModelError, match=r"bad\.pth: is damaged"):
        read_weights(path)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("kind", ["QUInt8", "QInt8", "QInt32", "QUInt4x2", "QUInt2x4", "ComplexFloat", "Untyped"])
def test_numbers_that_are_no_plain_ones_are_refused(tmp_path: Path, kind: str) -> None:
    saved, made = io.BytesIO(), io.BytesIO()
    numbers = {"QInt32": torch.int32, "ComplexFloat": torch.complex64}.get(kind, torch.uint8)
    torch.save({name: torch.zeros(value.shape, dtype=numbers) for name, value in STATE.items()}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(made, "w") as target:
        for member in source.namelist():
            content = source.read(member)
            if member.endswith("data.pkl"):
                content = re.sub(rb"torch\n\w+Storage\n", b"torch\n%bStorage\n" % kind.encode(), content)
            target.writestr(member, content)
    with pytest.raises(ModelError, match=r"bad\.pth: is not a plain state dict"):
        starting_network(str(written(tmp_path / "bad.pth", made.getvalue())), 2, 0)


def test_many_records_are_refused(tmp_path: Path) -> None:
    bad = packed(b"\x80\x02}.") + state_file.ZIP_ENTRY * state_file.MAX_RECORDS
    with pytest.raises(ModelError) as refused:
        read_weights(written(tmp_path / "many.pth", bad))
    assert "records" in str(refused.value.__cause__)


@pytest.mark.parametrize("order", [b"little", b"big"])
def test_fewer_bytes_than_numbers_are_refused_by_the_lowest_pytorch_too(tmp_path: Path, order: bytes) -> None:
    """Before PyTorch 2.10 such a file reads what lies behind it in memory, and where bytes are swapped writes there."""
    saved, made = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.zeros(1_000)}, saved)
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(made, "w") as target:
        for member in source.namelist():
            target.writestr(member, order if member.endswith("byteorder") else source.read(member)[:200])
    with pytest.raises(ModelError, match="damaged"):
        read_weights(written(tmp_path / "short.pth", made.getvalue()))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(needed.startswith("torch>=2.10,") for needed in project["optional-dependencies"]["train"])


@pytest.mark.parametrize("name", ["large.pth", "large.safetensors"])
def test_larger_file_than_any_network_of_this_kind_is_not_opened(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ModelError, match="has 256 MiB, and 256 are read at most"):
        read_weights(tmp_path / name)


def test_long_header_of_safetensors_is_refused(tmp_path: Path) -> None:
    data = save({"a": torch.zeros(1)})
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length] + b" " * MAX_HEADER
    long = struct.pack("<Q", len(header)) + header + data[8 + length :]
    with pytest.raises(ModelError, match="is damaged"):
        read_weights(written(tmp_path / "long.safetensors", long))


@pytest.mark.parametrize("name", ["conv1.weight", "bn1.num_batches_tracked", "another"])
def test_shapes_are_compared_before_numbers_are_converted(tmp_path: Path, name: str) -> None:
    state: dict[str, Tensor] = {**ResNet18(2).state_dict()}
    state[name] = torch.zeros(1, dtype=torch.float16).as_strided((10**6, 10**7), (0, 0))  # 40 TB as float32
    torch.save(state, tmp_path / "huge.pth")
    with pytest.raises(ModelError, match=f"is not a ResNet-18: {name} is missing, of another shape"):
        starting_network(str(tmp_path / "huge.pth"), 2, 0)


def test_checkpoint_of_a_training_is_told_from_a_damaged_file(tmp_path: Path) -> None:
    network = ResNet18(3)
    groups = [{"params": [value], "betas": (0.9, 0.99)} for value in network.parameters()]
    state = torch.optim.Adam(groups).state_dict()
    for number, more in enumerate(({"optimizer": state}, {"shape": torch.Size([1])}, {"kind": torch.float16})):
        path = tmp_path / f"{number}.pth"
        torch.save({"state_dict": network.state_dict(), **more}, path)
        with pytest.raises(ModelError, match="is not a plain state dict"):
            read_weights(path)
