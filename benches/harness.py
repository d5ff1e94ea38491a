"""Runs a child and measures it, and runs workflows of `refrain`. Shared by models.py and memory.py; not called by itself."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}


def ticks():
    """All CPU time of the machine since it started, and the busy part of it, in seconds."""
    with open("/proc/stat") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    total, idle = sum(fields), fields[3] + fields[4]
    return total / os.sysconf("SC_CLK_TCK"), (total - idle) / os.sysconf("SC_CLK_TCK")


def wait_until_idle(seconds):
    """Waits until the cores have been 95 % idle for one second, for `seconds` at most."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        total, busy = ticks()
        time.sleep(1)
        later, busier = ticks()
        if busier - busy < 0.05 * (later - total):
            return


def child(command, folder=".", environment=None):
    """Runs a command to its end.

    Returns its wall and CPU seconds, its peak memory in MiB (the largest resident set, VmHWM), its stdout, and the share
    of the machine's CPU time that other processes took meanwhile.
    """
    total, busy = ticks()
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        later, busier = ticks()
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            lines = f"{err.read()[-2000:]}\n{out.read()[-1000:]}"
            sys.exit(f"`{' '.join(command)}` ended with {process.returncode}:\n{lines}")
        text = out.read()
    cpu = usage.ru_utime + usage.ru_stime
    foreign = max(0.0, busier - busy - cpu) / max(0.01, later - total)
    return SimpleNamespace(seconds=seconds, cpu=cpu, mb=usage.ru_maxrss / 1024, out=text, foreign=foreign)


def last_json(text):
    """The last line of a text that is a JSON object."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return json.loads(lines[-1])


class Spans:
    """The spans of a trace file, with begin and end in seconds."""

    def __init__(self, path):
        with open(path) as file:
            events = json.load(file)
        if isinstance(events, dict):
            events = events["traceEvents"]
        self.events = events

    def named(self, name, category=None):
        """The spans of a name in the order of their beginning."""
        wanted = (e for e in self.events if e.get("ph") == "X" and e["name"] == name)
        spans = [
            SimpleNamespace(begin=e["ts"] / 1e6, end=(e["ts"] + e["dur"]) / 1e6, **{"args": e.get("args", {})})
            for e in wanted
            if e["cat"] == (category or name)
        ]
        return sorted(spans, key=lambda span: span.begin)

    def seconds(self, name, category=None):
        """The sum of the spans of a name."""
        return sum(span.end - span.begin for span in self.named(name, category))

    def instants(self, name):
        """The fields of the log lines of a name."""
        return [e["args"] for e in self.events if e.get("ph") == "i" and e["name"] == name]


class Workflow:
    """A workflow in a folder of its own, with a cache of its own."""

    def __init__(self, refrain, text, folder):
        self.refrain, self.folder = os.path.abspath(refrain), folder
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "w.yaml"), "w") as file:
            file.write(text)

    def forget(self):
        """Removes cache and lock, so that everything is computed again."""
        shutil.rmtree(os.path.join(self.folder, ".refrain"), ignore_errors=True)
        if os.path.exists(os.path.join(self.folder, "w.lock")):
            os.remove(os.path.join(self.folder, "w.lock"))

    def run(self, *stages, jobs=1):
        """Runs stages in one process; the child's figures, with `spans` and, by name of the node, `metrics`."""
        trace = os.path.join(self.folder, "trace.json")
        command = [self.refrain, "run", "w.yaml", "--jobs", str(jobs), "--quiet", "--format", "json", "--trace", trace]
        command += ["--cache", os.path.join(self.folder, ".refrain"), *(f"--only={stage}" for stage in stages)]
        done = child(command, self.folder)
        done.spans = Spans(trace)
        nodes = json.loads(done.out)["nodes"]
        done.metrics = {n["node"]: {m["metric"]: m["value"] for m in n["metrics"] or []} for n in nodes}
        return done


def drop(path):
    """Removes the pages of a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def simd():
    """The widest vectors of this processor: `avx512`, `avx2`, or the machine's name."""
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    wide = "avx512" if "avx512f" in flags else "avx2" if "avx2" in flags else None
    return wide or os.uname().machine
