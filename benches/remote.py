"""Measures push and pull of a remote cache beside s5cmd on the same bytes, and beside `cp -r` for a folder.

Each program sends and receives in turns, to a bucket of its own of one `moto_server` on this machine. The workflow makes
its bytes from nothing by a command, so no data are needed. A pull ends
when all is on disk; so what receives beside it is followed by a `sync` of the file system.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

# Bytes that no program can compress: each file is a stream of its own.
PROGRAM = """
import hashlib, os, sys
folder = "${{out.files}}"
os.makedirs(folder, exist_ok=True)
open(os.path.join(folder, "config.json"), "w").write("{{}}")
for number in range({count}):
    text = hashlib.shake_128(str(number).encode()).digest({chunk})
    with open(os.path.join(folder, f"part-{{number:05}}.safetensors"), "wb") as file:
        for turn in range({turns}):
            file.write(text)
"""

SIZES = {
    "large": {"count": 20, "chunk": 10_000_000, "turns": 10},
    "small": {"count": 10_000, "chunk": 10_000, "turns": 1},
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(program):
    port = free_port()
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            urllib.request.urlopen(address + "/moto-api/")
            return server, address
        except OSError:
            time.sleep(0.1)
    sys.exit("moto_server does not start")


def reset(address):
    urllib.request.urlopen(urllib.request.Request(address + "/moto-api/reset", method="POST"))


def timed(command, folder, environment):
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds


def make(refrain, folder, size, environment):
    program = json.dumps(PROGRAM.format(**size).strip())
    outputs = "{ files: model }"
    run = f"run:\n      command: [python3, -c, {program}]\n      outputs: {outputs}\n"
    (folder / "w.yaml").write_text(f"refrain: 1\nstages:\n  made:\n    {run}")
    subprocess.run([refrain, "run", "w.yaml", "--quiet"], cwd=folder, env=environment, check=True, capture_output=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refrain", type=Path, required=True)
    parser.add_argument("--s5cmd", default="s5cmd")
    parser.add_argument("--moto", default="moto_server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    arguments = parser.parse_args()
    refrain = arguments.refrain.resolve()
    server, address = start_server(arguments.moto)
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": address}
    environment = {**os.environ, **keys, "S3_ENDPOINT_URL": address}
    try:
        for name in arguments.sizes:
            measure(name, refrain, arguments, environment, address)
    finally:
        server.terminate()


def measure(name, refrain, arguments, environment, address):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        here = scratch / "here"
        here.mkdir()
        make(refrain, here, SIZES[name], environment)
        objects = here / ".refrain/objects"
        times = {}
        note = lambda key, seconds: times.setdefault(key, []).append(seconds)
        s5cmd = [arguments.s5cmd, "--endpoint-url", address]
        for _ in range(arguments.rounds):
            for bucket in ("ours", "theirs"):
                subprocess.run([*s5cmd, "mb", f"s3://{bucket}"], env=environment, check=True, capture_output=True)
            note("push", timed([refrain, "cache", "push", "w.yaml", "--remote", "s3://ours/cache"], here, environment))
            note("s5cmd up", timed([*s5cmd, "cp", f"{objects}/", "s3://theirs/cache/"], here, environment))
            there = clone(here, scratch / "there")
            note("pull", timed([refrain, "cache", "pull", "w.yaml", "--remote", "s3://ours/cache"], there, environment))
            received = timed([*s5cmd, "cp", "s3://theirs/cache/*", f"{scratch}/down/"], here, environment)
            note("s5cmd down", received + timed(["sync", "-f", str(scratch)], here, environment))
            shutil.rmtree(scratch / "down")
            reset(address)

            (scratch / "folder").mkdir()
            note("push folder", timed([refrain, "cache", "push", "w.yaml", "--remote", str(scratch / "folder")], here, environment))
            note("cp up", timed(["cp", "-r", objects, scratch / "copy"], here, environment))
            there = clone(here, scratch / "there")
            note("pull folder", timed([refrain, "cache", "pull", "w.yaml", "--remote", str(scratch / "folder")], there, environment))
            copied = timed(["cp", "-r", scratch / "folder", scratch / "back"], here, environment)
            note("cp down", copied + timed(["sync", "-f", str(scratch)], here, environment))
            for left in ("folder", "copy", "back"):
                shutil.rmtree(scratch / left)
        medians = {key: statistics.median(seconds) for key, seconds in times.items()}
        pairs = [("push", "s5cmd up"), ("pull", "s5cmd down"), ("push folder", "cp up"), ("pull folder", "cp down")]
        for ours, theirs in pairs:
            line = {"size": name, "measure": ours, "s": round(medians[ours], 2), theirs: round(medians[theirs], 2)}
            print(json.dumps({**line, "ratio": round(medians[theirs] / medians[ours], 2)}), flush=True)


def clone(here, there):
    """A clean clone: workflow and lock, without a cache."""
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    for name in ("w.yaml", "w.lock"):
        shutil.copy(here / name, there / name)
    return there


if __name__ == "__main__":
    main()
