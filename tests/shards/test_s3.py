"""A set in S3, spoken to a real server process on loopback: written, killed, continued, read, verified."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import numpy as np
import pytest
from tiny_sets import expected_sample, tiny_recipe, write_set

import genrep.shards
from genrep.shards.location import location
from genrep.shards.verify import verify

NUM_SAMPLES, SHARD_SIZE = 48, 4


@pytest.fixture(scope="module")
def server():
    """Address of moto's server; it ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "moto's server ended by itself"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(server, monkeypatch):
    """URL of a new, empty bucket, and the environment in which s3fs finds it."""
    environment = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"sets-{time.monotonic_ns()}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def objects(url):
    """Name -> ETag and time of every object below a URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    found = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    return {entry["Key"].removeprefix(f"{prefix}/"): (entry["ETag"], entry["LastModified"]) for entry in found}


def test_a_set_is_written_to_s3_killed_continued_read_and_verified(bucket, tmp_path):
    url = f"{bucket}/deep/set"
    words = [sys.executable, str(Path(__file__).with_name("tiny_sets.py")), url, str(NUM_SAMPLES), str(SHARD_SIZE)]
    done = 0
    for _ in range(3):  # each kill after new progress
        process = subprocess.Popen([*words, "0.05"], start_new_session=True)
        while len([name for name in objects(url) if name.endswith(".tar")]) <= done:
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        done = len([name for name in objects(url) if name.endswith(".tar")])
    finished = {name: facts for name, facts in objects(url).items() if name.endswith(".tar")}
    assert 3 <= len(finished) < NUM_SAMPLES // SHARD_SIZE
    assert "manifest.json" not in objects(url)

    subprocess.run([*words, "0"], check=True)
    assert {name: facts for name, facts in objects(url).items() if name in finished} == finished

    folder = tmp_path / "folder"
    write_set(folder, tiny_recipe(NUM_SAMPLES, SHARD_SIZE))
    for file in folder.rglob("*"):
        if file.is_file():
            assert (location(url) / str(file.relative_to(folder))).read_bytes() == file.read_bytes()
    assert len(objects(url)) == len([file for file in folder.rglob("*") if file.is_file()])  # nothing half-written

    for index, sample in enumerate(genrep.shards.read(url)):
        images, latents, _, _ = expected_sample(tiny_recipe(), index)
        assert np.array_equal(sample.images[..., :1], images)
        assert np.array_equal(sample.latents, latents)
    assert verify(url, deep=True) == []
    whole = subprocess.run(
        [sys.executable, "-m", "genrep.shards.command", "verify", url], capture_output=True, text=True, check=False
    )
    assert whole.stdout == f"{url} is whole: {NUM_SAMPLES} samples checked\n", whole.stderr


def test_two_processes_on_one_prefix_leave_one_whole_set(bucket):
    url = f"{bucket}/set"
    words = [sys.executable, str(Path(__file__).with_name("tiny_sets.py")), url, "24", "4", "0.01"]
    processes = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert verify(url, deep=True) == []


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("s3://no-such-bucket/set", "s3://no-such-bucket/set/recipe.json is missing"),
        ("{bucket}/nothing", "recipe.json is missing"),
    ],
)
def test_what_is_not_there_is_one_line(bucket, place, reason):
    words = [sys.executable, "-m", "genrep.shards.command", "info", place.format(bucket=bucket)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert reason in done.stderr


def test_writing_into_a_bucket_that_is_not_there_is_one_line_that_says_so(bucket):
    words = [sys.executable, "-m", "genrep.shards.command", "import", "fashion-mnist", "--n", "3"]
    done = subprocess.run([*words, "--out", "s3://no-such-bucket/set"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "could not be written (The specified bucket does not exist)" in done.stderr
