import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from genrep.shards import atomic
from genrep.shards.errors import DataError


def temporary_name(path):
    """The name under which this process stages a file."""
    with atomic.staged(path, b"") as temporary:
        return temporary.name


def names_in(folder):
    return sorted(os.listdir(folder))


def test_a_file_is_written_or_replaced_as_a_whole(tmp_path):
    for content in (b"first", b"second, longer", b""):
        atomic.write(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    assert names_in(tmp_path) == ["a"]


def test_a_staged_file_that_is_not_put_in_place_leaves_nothing(tmp_path):
    with atomic.staged(tmp_path / "a", b"content") as temporary:
        assert temporary.read_bytes() == b"content"
        assert not (tmp_path / "a").exists()
    with pytest.raises(KeyboardInterrupt), atomic.staged(tmp_path / "a", b"content"):
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("make", [atomic.write, atomic.create])
def test_content_is_synced_before_a_file_has_its_name_and_the_folder_after(tmp_path, monkeypatch, make):
    real, synced = os.fsync, []

    def fsync(descriptor):
        real(descriptor)
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), (tmp_path / "a").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    make(tmp_path / "a", b"content")
    assert synced == [(False, False), (True, True)]


def test_creating_leaves_a_file_that_is_there_as_it_is(tmp_path):
    atomic.create(tmp_path / "a", b"first")
    atomic.create(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert names_in(tmp_path) == ["a"]


@pytest.mark.parametrize("has_links", [True, False])
def test_of_many_creators_one_wins_and_its_file_is_whole(tmp_path, monkeypatch, has_links):
    if not has_links:

        def link(*_):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)
    contents = [bytes([65 + i]) * 100_000 for i in range(8)]
    threads = [threading.Thread(target=atomic.create, args=(tmp_path / "a", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert names_in(tmp_path) == ["a"]


def test_only_what_a_dead_process_of_this_host_left_is_removed(tmp_path):
    ours = temporary_name(tmp_path / "a.tar")
    head, _, _, serial = ours.rsplit("-", 3)
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with sleeper:
        alive = f"{head}-{sleeper.pid}-{atomic._start_time(sleeper.pid)}-{serial}"
        reused = f"{head}-{sleeper.pid}-1-{serial}"  # another process had this number before
        elsewhere = f".a.tar.tmp-another.host-{sleeper.pid}-1-0"
        strangers = ["a.tar", ".a.tar.tmp", ".a.tar.tmp-x", "notes.tmp-1-2-3", ".hidden"]
        for name in [ours, alive, reused, elsewhere, *strangers]:
            (tmp_path / name).touch()
        atomic.remove_stale(tmp_path)
        assert names_in(tmp_path) == sorted([ours, alive, elsewhere, *strangers])
        sleeper.communicate(b"\n")
    atomic.remove_stale(tmp_path)
    assert names_in(tmp_path) == sorted([ours, elsewhere, *strangers])


def test_a_killed_process_counts_as_dead_before_its_parent_has_asked(tmp_path):
    head, _, _, serial = temporary_name(tmp_path / "a").rsplit("-", 3)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / f"{head}-{child.pid}-{atomic._start_time(child.pid)}-{serial}").touch()
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, still listed
    atomic.remove_stale(tmp_path)
    assert names_in(tmp_path) == []
    child.communicate()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some of your quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.EROFS, "choose a folder that you may write to"),
        (errno.EIO, "check the disk"),
    ],
)
def test_a_failure_names_file_reason_and_remedy_in_one_line(tmp_path, number, remedy):
    with pytest.raises(DataError) as caught, atomic.reported(tmp_path / "a.tar"):
        raise OSError(number, os.strerror(number))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'a.tar'} could not be written ({os.strerror(number)}): ")
    assert remedy in message
    assert "\n" not in message


def test_a_folder_that_cannot_be_synced_is_no_failure_but_a_broken_disk_is(tmp_path, monkeypatch):
    real, answers = os.fsync, iter([None, errno.EINVAL, None, errno.EIO])

    def fsync(descriptor):
        if number := next(answers):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write(tmp_path / "a", b"content")
    with pytest.raises(DataError, match="check the disk"):
        atomic.write(tmp_path / "a", b"content")


def test_a_lock_keeps_out_other_processes_and_dies_with_its_holder(tmp_path):
    (tmp_path / "lock").touch()
    hold = "import sys, pathlib; from genrep.shards import atomic\nwith atomic.locked(pathlib.Path(sys.argv[1])):\n"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{hold} print('held', flush=True); input()", str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        entered = threading.Event()

        def enter():
            with atomic.locked(tmp_path / "lock"):
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
        holder.kill()
        thread.join(10)
        assert entered.is_set()
