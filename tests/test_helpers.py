"""The private helpers that every package may use: usable CPUs, atomic writes, the nearest name."""

import os
import stat
import threading
from pathlib import Path

import pytest

from pupila._arguments import did_you_mean, nearest
from pupila._files import replacing, write_file
from pupila._workers import usable_cores, usable_cpus

ALLOWED = float(len(os.sched_getaffinity(0)))


# CPUs: a false tree of control groups, given as a parameter


def group(root: Path, path: str, quota: str) -> None:
    """Make a control group with a CPU quota, of version 2 or, with two numbers on two lines, of version 1."""
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    if "\n" in quota:
        for name, value in zip(("cpu.cfs_quota_us", "cpu.cfs_period_us"), quota.split("\n"), strict=True):
            (folder / name).write_text(f"{value}\n")
    else:
        (folder / "cpu.max").write_text(f"{quota}\n")


def cpus(root: Path, *membership: str) -> float:
    """Return the usable CPUs of a process whose /proc/self/cgroup holds these lines."""
    file = root / "membership"
    file.write_text("".join(f"{line}\n" for line in membership))
    return usable_cpus(root, file)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("", "0::/"),  # a container with a namespace of its own
        ("", "0::/docker/0123abcd"),  # a container that sees the host's path
        ("", "0::/../../other"),  # a process moved out of its namespace
        ("system.slice/pupila.service", "0::/system.slice/pupila.service"),  # systemd's CPUQuota
        ("system.slice", "0::/system.slice/pupila.service"),  # a quota of a group above
        ("unified", "0::/"),  # version 2 beside version 1
    ],
)
def test_quota_of_version_2_counts(tmp_path: Path, path: str, line: str) -> None:
    group(tmp_path, path, "50000 100000")
    assert cpus(tmp_path, "12:memory:/elsewhere", line) == 0.5


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("cpu", "4:cpu:/"),
        ("cpu", "4:cpu:/docker/0123abcd"),
        ("cpu,cpuacct", "4:cpu,cpuacct:/docker/0123abcd"),
        ("cpu,cpuacct/docker/0123abcd", "4:cpu,cpuacct:/docker/0123abcd"),
        ("cpu/user.slice", "4:cpuacct,cpu:/user.slice/user-0.slice"),
    ],
)
def test_quota_of_version_1_counts(tmp_path: Path, path: str, line: str) -> None:
    group(tmp_path, path, "25000\n100000")
    assert cpus(tmp_path, line, "0::/") == 0.25


def test_smallest_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    for path, quota in (("a", "70000 100000"), ("a/b", "20000 100000"), ("a/b/c", "max 100000")):
        group(tmp_path, path, quota)
    assert cpus(tmp_path, "0::/a/b/c") == 0.2


@pytest.mark.parametrize("quota", ["max 100000", "-1\n100000", "0\n0", "nonsense", "9000000 100000", "1 2 3", "\n"])
def test_without_a_quota_the_affinity_counts(tmp_path: Path, quota: str) -> None:
    group(tmp_path, "cpu" if "\n" in quota else "", quota)
    assert cpus(tmp_path, "4:cpu:/", "0::/") == ALLOWED


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path / "none" / "either") == ALLOWED


def test_quota_of_another_process_does_not_count(tmp_path: Path) -> None:
    group(tmp_path, "neighbour", "10000 100000")
    assert cpus(tmp_path, "0::/mine") == ALLOWED


def test_a_fraction_of_a_cpu_is_one_core(tmp_path: Path) -> None:
    group(tmp_path, "", "10000 100000")
    (tmp_path / "membership").write_text("0::/\n")
    assert usable_cores(tmp_path, tmp_path / "membership") == 1


# Files


def test_file_is_replaced_with_all_of_its_content_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content in ("old", "ação\r\n", b"\x00\xff"):
        write_file(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failure_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_longest_name_that_a_file_system_takes_can_be_written(tmp_path: Path) -> None:
    name = "ção" * 50 + "n" * 5
    assert len(name.encode()) == 255
    write_file(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"


def test_permissions_are_those_of_any_new_file_or_as_given(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_file(tmp_path / "usual", "x")
    write_file(tmp_path / "secret", "x", mode=0o600)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["usual"] == modes["plain"]
    assert modes["secret"] == 0o600


def test_threads_that_write_one_file_at_once_leave_one_of_their_contents(tmp_path: Path) -> None:
    contents = [letter * 100_000 for letter in "abcdefgh"]
    threads = [threading.Thread(target=write_file, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in contents
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "none" / "a", "x")


# Names


@pytest.mark.parametrize(
    ("word", "found"), [("epoch", "epochs"), ("EPOCHS", "epochs"), ("hrose", "Horse"), ("x", None)]
)
def test_nearest_name_is_found_whatever_its_case(word: str, found: str | None) -> None:
    assert nearest(word, ["epochs", "batch", "Horse"]) == found


def test_hint_is_a_question_or_what_else_can_be_done() -> None:
    assert did_you_mean("tpo", ["top"]) == "Did you mean 'top'?"
    assert did_you_mean("zzz", ["top"], "Use 'top'.") == "Use 'top'."


def test_long_names_and_many_names_take_no_time() -> None:
    assert nearest("a" * 1_000_000, (f"class-{number}" for number in range(1_000_000))) is None
