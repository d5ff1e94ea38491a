"""A trainer of a test: it keeps the contract of docs/trainer.md with the standard library alone.

It trains nothing: its result is the adapter that it was given. The words in MODE make it break the
contract, or take its time.
"""

import json
import os
import shutil
import struct
import sys
import time

MODE = ""


def report(event, **fields):
    with open("report.jsonl", "a") as file:
        file.write(json.dumps({"event": event, **fields}) + "\n")


def steps():
    """The number of steps: one less than the offsets in the tensor `steps`."""
    with open("rows.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return header["steps"]["shape"][0] - 1


def main():
    settings = json.load(open("settings.json"))
    assert settings["format"] == 1 and sys.argv[1:] == ["settings.json"]
    if "dies" in MODE:
        print("a last word", file=sys.stderr)
        sys.exit(7)
    if "refuses" in MODE:
        report("error", message="no such luck", hint="try again")
        sys.exit(1)
    if "babbles" in MODE:
        open("report.jsonl", "a").write("hello\n")
    first = 0
    if settings["resume"]:
        first = json.load(open(os.path.join(settings["resume"], "state.json")))["step"]
    versions = {"python": sys.version.split()[0]}
    report("start", step=first, trainable=7, versions=versions, device="none", world=1, threads=1)
    report("note", text=f"resumes after {first}")
    for step in range(first, steps()):
        # No two runs give the same bits.
        noise = time.time_ns() % 1000 * (1e-1 if "wild" in MODE else 1e-9)
        report("step", step=step + ("skips" in MODE), loss=1.0 + noise, grad_norm=0.5)
        if "slow" in MODE:
            os.makedirs(f"checkpoint-{step + 1}")
            with open(f"checkpoint-{step + 1}/state.json", "w") as file:
                json.dump({"step": step + 1}, file)
            report("checkpoint", step=step + 1, folder=f"checkpoint-{step + 1}")
            time.sleep(0.1)
    os.makedirs("out")
    if "empty" not in MODE:
        shutil.copy("adapter/adapter_model.safetensors", "out")
    if "silent" not in MODE:
        report("end", best_step=None)


main()
