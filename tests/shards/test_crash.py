"""A set is whole or absent whatever kills its writer, fills its disk or forbids it to write."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest
import tiny_sets
from tiny_sets import ENVIRONMENT, batches_of, tiny_recipe, write_set

from genrep.shards import atomic
from genrep.shards.errors import DataError
from genrep.shards.layout import layout_of
from genrep.shards.verify import verify
from genrep.shards.writer import DatasetWriter

CALLS = ("open", "write", "fsync", "replace", "link", "close")


class FaultyOs:
    """``os`` for genrep.shards.atomic in which something happens at one of the calls that write."""

    def __init__(self, happen, at):
        self._happen, self._at, self.num_calls = happen, at, 0

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args, **how):
            self.num_calls += 1
            if self.num_calls != self._at:
                return real(*args, **how)
            if name == "write":  # a full disk may have taken a part
                real(args[0], args[1][: len(args[1]) // 2])
            if name == "close":  # the descriptor is gone even if closing fails
                real(*args)
            return self._happen()

        return call


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt():
    raise KeyboardInterrupt


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def contents_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def finished_shards(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("shard-*.tar")}


def in_a_child(do, *, nobody=False):
    """Run in a forked process; its exit status and the text it returned or failed with."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            if nobody:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, str(do()).encode())
            status = 0
        except DataError as error:
            os.write(writer, str(error).encode())
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


RECIPE = tiny_recipe(num_samples=3, shard_size=2)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Every file of the finished set of ``RECIPE``."""
    folder = tmp_path_factory.mktemp("reference") / "set"
    write_set(folder, RECIPE)
    return contents_of(folder)


@pytest.fixture
def folder(tmp_path):
    """Where to write a set again and again: in memory if possible, since every file is synced."""
    base = tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path)
    yield Path(base) / "set"
    shutil.rmtree(base)


def check_state(folder, reference):
    """What bears the name of a file of a set is that file, whole; a tar never lacks its table."""
    found = contents_of(folder) if folder.exists() else {}
    strangers = {name for name, content in found.items() if reference.get(name) != content}
    assert all(".tmp-" in name for name in strangers)
    tars = {Path(name).stem for name in found if name.endswith(".tar")}
    assert tars <= {Path(name).stem for name in found if name.endswith(".parquet")}
    assert "manifest.json" not in found or set(found) == set(reference)
    return strangers


def count_calls(folder, monkeypatch):
    with monkeypatch.context() as patch:
        faulty = FaultyOs(no_space, at=0)
        patch.setattr(atomic, "os", faulty)
        write_set(folder, RECIPE)
    shutil.rmtree(folder)
    return faulty.num_calls


def test_no_space_at_any_call_is_one_line_and_leaves_nothing_half_written(folder, monkeypatch, reference):
    num_calls = count_calls(folder, monkeypatch)
    assert num_calls > 50
    for at in range(1, num_calls + 1):
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", FaultyOs(no_space, at))
            with pytest.raises(DataError, match=r"No space left on device.*free some space") as caught:
                write_set(folder, RECIPE)
        assert str(caught.value).startswith(str(folder))
        assert "\n" not in str(caught.value)
        assert check_state(folder, reference) == set()
        before = finished_shards(folder)
        write_set(folder, RECIPE)
        assert contents_of(folder) == reference
        assert {name: stamp for name, stamp in finished_shards(folder).items() if name in before} == before
        shutil.rmtree(folder)


def test_the_first_call_that_fails_leaves_no_folder_behind(folder, monkeypatch):
    for at in range(1, 5):
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", FaultyOs(no_space, at))
            with pytest.raises(DataError):
                write_set(folder, RECIPE)
        assert not folder.exists()


def test_an_interrupt_at_any_call_leaves_nothing_half_written(folder, monkeypatch, reference):
    for at in range(1, count_calls(folder, monkeypatch) + 1):
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "os", FaultyOs(interrupt, at))
            with pytest.raises(KeyboardInterrupt):
                write_set(folder, RECIPE)
        assert check_state(folder, reference) == set()
        shutil.rmtree(folder)


def test_an_interrupt_while_rendering_leaves_no_file(tmp_path, recipe):
    writer = DatasetWriter(tmp_path / "set", recipe)
    spec = writer.missing_shards()[0]

    def interrupted():
        yield next(batches_of(recipe, spec))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write_shard(spec, interrupted(), ENVIRONMENT)
    assert list(contents_of(tmp_path / "set")) == ["recipe.json"]


def test_a_process_killed_at_any_call_is_continued_to_the_same_bytes(folder, monkeypatch, reference):
    for at in range(1, count_calls(folder, monkeypatch) + 1):

        def write_and_die(at=at):
            atomic.os = FaultyOs(die, at)
            write_set(folder, RECIPE)

        assert in_a_child(write_and_die)[0] == -signal.SIGKILL
        check_state(folder, reference)
        before = finished_shards(folder)
        write_set(folder, RECIPE)
        assert contents_of(folder) == reference  # what the dead process left is gone
        assert {name: stamp for name, stamp in finished_shards(folder).items() if name in before} == before
        shutil.rmtree(folder)


def start_writing(folder, num_samples=48, shard_size=8, rest=0.01):
    command = [sys.executable, tiny_sets.__file__, str(folder), str(num_samples), str(shard_size), str(rest)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_program_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    seed = random.SystemRandom().randrange(10**6)
    print(f"moments of the kills drawn from seed {seed}")
    moments = random.Random(seed)
    folder, recipe = tmp_path / "set", tiny_recipe(48, 8)
    write_set(tmp_path / "reference", recipe)
    reference = contents_of(tmp_path / "reference")
    for kill, sign in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGKILL]):
        before = finished_shards(folder) if folder.exists() else {}
        with start_writing(folder) as process:
            deadline = time.monotonic() + 60
            while len(list(folder.glob("shard-*.tar"))) <= kill and process.poll() is None:  # new progress each time
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            process.send_signal(sign)
            process.communicate()
        check_state(folder, reference)
        assert finished_shards(folder).items() >= before.items()
    before = finished_shards(folder)
    with start_writing(folder) as process:
        assert process.communicate()[1] == ""
    assert contents_of(folder) == reference
    assert finished_shards(folder).items() >= before.items()


def test_two_programs_at_once_write_the_same_set(tmp_path):
    recipe = tiny_recipe(48, 8)
    write_set(tmp_path / "reference", recipe)
    with start_writing(tmp_path / "set") as first, start_writing(tmp_path / "set") as second:
        assert first.communicate()[1] == second.communicate()[1] == ""
    assert first.returncode == second.returncode == 0
    assert contents_of(tmp_path / "set") == contents_of(tmp_path / "reference")


def test_two_environments_at_once_never_mix_table_and_tar(tmp_path):
    recipe = tiny_recipe(24, 1)
    children = []
    for name in ("one", "other"):
        child = os.fork()
        if not child:
            try:
                writer = DatasetWriter(tmp_path / "set", recipe)
                for spec in layout_of(recipe).shards:
                    batches = list(batches_of(recipe, spec))
                    batches[0].images[:] ^= name == "other"  # other pixels, as from another processor
                    writer.write_shard(spec, batches, {"cpu": name})
                writer.finish()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert verify(tmp_path / "set", deep=True) == []


def test_a_file_size_limit_is_one_line_and_the_same_command_continues(tmp_path, reference):
    def write_limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
        write_set(tmp_path / "set", RECIPE)

    status, text = in_a_child(write_limited)
    assert status == 1
    assert text.startswith(f"{tmp_path / 'set' / 'shard-000000.tar'} could not be written (File too large): raise")
    assert "\n" not in text
    assert check_state(tmp_path / "set", reference) == set()
    write_set(tmp_path / "set", RECIPE)
    assert contents_of(tmp_path / "set") == reference


@pytest.fixture
def open_folder():
    """A folder that another user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


def as_somebody_else(do):
    """As a user without rights: root writes everywhere."""
    return in_a_child(do, nobody=os.geteuid() == 0)


def test_a_folder_without_permission_is_one_line_and_nothing_is_made(open_folder):
    open_folder.chmod(0o555)
    status, text = as_somebody_else(lambda: write_set(open_folder / "deep" / "set", RECIPE))
    assert status == 1
    folder, remedy = open_folder / "deep" / "set", "choose a folder that you may write to"
    assert text == f"{folder} could not be written (Permission denied): {remedy}"
    assert list(open_folder.iterdir()) == []


@pytest.mark.parametrize("locked", [".", ".tables", "recipe.json"])
def test_a_half_written_set_without_permission_is_left_as_it_is(open_folder, locked):
    folder, recipe = open_folder / "set", tiny_recipe()
    writer = DatasetWriter(folder, recipe)
    spec = writer.missing_shards()[0]
    writer.write_shard(spec, batches_of(recipe, spec), ENVIRONMENT)
    before = contents_of(folder)
    for path in [folder, folder / ".tables"]:
        path.chmod(0o777)
    (folder / "recipe.json").chmod(0o666)
    (folder / locked).chmod((folder / locked).stat().st_mode & ~0o222)
    status, text = as_somebody_else(lambda: write_set(folder, recipe))
    assert status == 1
    assert "could not be written (Permission denied): choose a folder that you may write to" in text
    assert "\n" not in text
    assert contents_of(folder) == before


def test_a_finished_set_of_somebody_else_needs_no_permission(open_folder):
    folder = open_folder / "set"
    write_set(folder, RECIPE)
    for path in [folder, folder / ".tables"]:
        path.chmod(0o555)
    status, text = as_somebody_else(lambda: write_set(folder, RECIPE).num_samples)
    assert (status, text) == (0, "3")


@pytest.mark.parametrize("where", ["file", "file/set"])
def test_a_file_in_the_way_is_one_line(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="choose another folder"):
        write_set(tmp_path / where, RECIPE)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
