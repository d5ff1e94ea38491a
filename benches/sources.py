"""Measures the import of JSON Lines and CSV beside polars, in turns on the same files: time and peak memory.

    python3 benches/sources.py --refrain target/release/refrain --folder /tmp/import --mb 5000

It needs Python 3.9, a built `refrain`, and polars for the comparison. The files are made once and stay in the folder.
"""

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time

POLARS = "import polars as p, sys; p.scan_{0}(sys.argv[1]).sink_parquet(sys.argv[2], compression='zstd')"
WORKFLOW = """refrain: 1
data: {{ rows: {{ path: "{path}", columns: {{ prompt: question, response: answer }} }} }}
stages: {{ s: {{ run: {{ command: [cp, "${{in.t}}", "${{out.o}}"], inputs: {{ t: rows }}, outputs: {{ o: file }} }} }} }}
"""


def make(folder, megabytes):
    """Writes the same rows as JSON Lines and as CSV: questions and answers of random words."""
    paths = {ending: os.path.join(folder, f"rows-{megabytes}.{ending}") for ending in ("jsonl", "csv")}
    if all(map(os.path.exists, paths.values())):
        return paths
    draw = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(5000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(20, 120))) for _ in range(20000)]
    with open(paths["jsonl"], "w") as lines, open(paths["csv"], "w", newline="") as cells:
        table = csv.writer(cells)
        table.writerow(["question", "answer", "level", "score", "source"])
        size = number = 0
        while size < megabytes << 20:
            row = {
                "question": f"{number} {draw.choice(texts)}",
                "answer": f"{draw.choice(texts)}\n{draw.choice(texts)}",
                "level": number % 5,
                "score": draw.random(),
                "source": draw.choice(["web", "book"]),
            }
            line = json.dumps(row) + "\n"
            lines.write(line)
            table.writerow(row.values())
            size += len(line)
            number += 1
    return paths


def measured(command, folder, threads):
    """Runs a command; its seconds and the largest memory of it in MB."""
    environment = {**os.environ, "POLARS_MAX_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{command[0]} failed")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--mb", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    refrain = os.path.abspath(options.refrain)
    os.makedirs(options.folder, exist_ok=True)
    for ending, path in make(options.folder, options.mb).items():
        with open(os.path.join(options.folder, "w.yaml"), "w") as workflow:
            workflow.write(WORKFLOW.format(path=os.path.abspath(path)))
        scan = "ndjson" if ending == "jsonl" else "csv"
        sink = os.path.join(options.folder, "polars.parquet")
        commands = {
            "refrain": [refrain, "run", "w.yaml", "--only", "rows", "--quiet"],
            "polars": [sys.executable, "-c", POLARS.format(scan), os.path.abspath(path), os.path.abspath(sink)],
        }
        found = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                shutil.rmtree(os.path.join(options.folder, ".refrain"), ignore_errors=True)
                found[name].append(measured(command, options.folder, options.threads))
        best = {name: min(seconds for seconds, _ in runs) for name, runs in found.items()}
        peak = {name: max(mb for _, mb in runs) for name, runs in found.items()}
        print(json.dumps({
            "format": ending, "mb": options.mb, "s": best, "peak_mb": peak,
            "ratio": best["polars"] / best["refrain"], "load": os.getloadavg()[0],
        }))


if __name__ == "__main__":
    main()
