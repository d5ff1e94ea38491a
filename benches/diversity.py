"""Measures of diversity beside NumPy and SciPy; prints one JSON line a measure.

    python3 diversity.py --refrain target/release/refrain --texts data.jsonl --embeddings E.npy --python V/bin/python
    python3 diversity.py ... --rows 2000 --threads 2 self_bleu vendi

TEXTS has a field `text` per line, EMBEDDINGS is a NumPy file of as many vectors. `--python` has numpy, scipy and pyarrow;
`--peer diversity_ref.py` takes self-BLEU by count tables from that script (it needs nltk and vendi-score too). A measure's
time is that of its node, least of `--times`, less the node of the same table with `cosine_distance` (or `distinct_1`) alone,
which reads the table too. `minhash` takes rows of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from harness import Workflow, last_json, wait_until_idle

EMBEDDED = ["vendi", "dcscore", "mmd", "frechet", "neighbour_precision"]
LEXICAL = ["self_bleu_4", "vendi_ngram", "jaccard_distance", "ngram_distance", "compression_ratio"]
MEASURES = [*EMBEDDED, *LEXICAL, "minhash"]

# Writes the tables, and gives NumPy's figures with the least seconds of several runs.
NUMPY = r"""
import json, sys, time
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from scipy.linalg import eigvalsh, sqrtm
from scipy.spatial.distance import pdist
texts_file, vectors_file, rows, times, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
texts = [json.loads(line)["text"] for line in open(texts_file, encoding="utf-8") if line.strip()][:rows]
raw = np.load(vectors_file).astype(np.float32)
x32 = raw[:rows]
# The second set: the rows behind, or the same ones changed a little.
y32 = raw[rows : 2 * rows] if len(raw) >= 2 * rows else (x32[::-1] + 0.05 * np.random.default_rng(1).standard_normal(x32.shape)).astype(np.float32)
lists = lambda v: pa.ListArray.from_arrays(np.arange(0, v.size + 1, v.shape[1], dtype=np.int32), pa.array(v.ravel()))
ids = pa.array([f"r{i:06}" for i in range(len(x32))])
pq.write_table(pa.table({"id": ids, "response": pa.array(texts[: len(x32)]), "embedding": lists(x32)}), f"{folder}/a.parquet")
pq.write_table(pa.table({"id": ids.slice(0, len(y32)), "embedding": lists(y32)}), f"{folder}/b.parquet")
x, y = x32.astype(np.float64), y32.astype(np.float64)
unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
def entropy(k, n):
    p = eigvalsh(k / n); p = p[p > 1e-15]
    return float(np.exp(-(p * np.log(p)).sum()))
def dcscore():
    u = unit(x); z = u @ u.T; z -= z.max(1, keepdims=True); e = np.exp(z)
    return float((np.diag(e) / e.sum(1)).sum())
def squares(a, b):
    return np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T, 0)
def mmd():
    z = np.concatenate([x, y]); d = squares(z, z); n, m = len(x), len(y)
    sigma = np.median(np.sqrt(d[np.triu_indices(n + m, 1)])); k = np.exp(-d / (2 * sigma**2))
    xx, yy, xy = k[:n, :n], k[n:, n:], k[:n, n:]
    return float((xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean())
def frechet():
    s, t, m = np.cov(x.T), np.cov(y.T), x.mean(0) - y.mean(0)
    return float(m @ m + np.trace(s) + np.trace(t) - 2 * np.trace(sqrtm(s @ t)).real)
def precision():
    d = squares(y, y); np.fill_diagonal(d, np.inf); radius = np.partition(d, 2, axis=1)[:, 2]
    return float((squares(x, y) <= radius[None]).any(1).mean())
def rows_by_rows():
    u = unit(x); return entropy(u @ u.T, len(u))
def dual():
    u = unit(x); return entropy(u.T @ u, len(u))
for name, work in dict(vendi=dual, vendi_rows=rows_by_rows, dcscore=dcscore, mmd=mmd, frechet=frechet, neighbour_precision=precision).items():
    least = float("inf")
    for _ in range(times):
        begin = time.perf_counter(); value = work(); least = min(least, time.perf_counter() - begin)
    print(json.dumps(dict(measure=name, value=value, s=least)), flush=True)
"""


def near_duplicates(path, rows):
    """Writes rows of 100 words, a tenth of which are another row with one or two words changed; returns how many."""
    state, alike = 1, 0
    with open(path, "w") as file:
        kept = []
        for row in range(rows):
            words = []
            for _ in range(100):
                state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
                words.append((state >> 40) % 50_000)
            if row % 10 == 9:
                words = list(kept[(state >> 33) % len(kept)])
                words[30], words[70] = 50_000 + row, 50_001 + row
                alike += 1  # 86 of 106 shingles are shared: 0.81
            else:
                kept.append(words)
            file.write(json.dumps({"id": f"r{row:06}", "response": " ".join(f"w{word}" for word in words)}) + "\n")
    return alike


def stage(name, parameters, threads):
    return f"  {name}: {{ diversify: {{ {parameters} }}, resources: {{ threads: {threads} }} }}\n"


def least(workflow, name, times):
    """The least seconds of a node, and its metrics and peak memory."""
    seconds, done = float("inf"), None
    for _ in range(times):
        workflow.forget()
        workflow.run("rows", *(["others"] if "others" in workflow.sources else []))
        wait_until_idle(5)
        done = workflow.run(name)
        seconds = min(seconds, done.spans.seconds(name, "node"))
    return seconds, done.metrics[name], done.mb


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--embeddings", required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--peer")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--minhash-rows", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("measures", nargs="*", default=MEASURES, metavar="MEASURE", help=", ".join(MEASURES))
    given = parser.parse_args()
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(given.threads), "OMP_NUM_THREADS": str(given.threads)}

    with tempfile.TemporaryDirectory() as folder:
        arguments = [given.texts, given.embeddings, str(given.rows), str(given.times), folder]
        peer = subprocess.run([given.python, "-c", NUMPY, *arguments], env=environment, capture_output=True, text=True)
        if peer.returncode != 0:
            sys.exit(peer.stderr)
        theirs = {line["measure"]: line for line in map(json.loads, peer.stdout.splitlines())}
        if given.peer and "self_bleu_4" in given.measures:
            command = [given.python, given.peer, given.texts, "--embeddings", given.embeddings, "--n", str(given.rows)]
            lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
            for line in map(json.loads, lines):
                if line.get("metric") == "self_bleu_4.tables":
                    theirs["self_bleu_4"] = dict(value=line["value"], s=line["seconds"])

        text = "refrain: 1\ndata:\n  rows: { path: a.parquet }\n  others: { path: b.parquet }\nstages:\n"
        for name in ["cosine_distance", "distinct_1", *EMBEDDED, *LEXICAL]:
            between = ", against: others" if name in ("mmd", "frechet", "neighbour_precision") else ""
            text += stage(f"m_{name}", f"data: rows, measure: [{name}]{between}", given.threads)
        workflow = Workflow(given.refrain, text, folder)
        workflow.sources = ["rows", "others"]
        floor = {}
        for measure in given.measures:
            if measure == "minhash":
                continue
            base = "cosine_distance" if measure in EMBEDDED else "distinct_1"
            if base not in floor:
                floor[base] = least(workflow, f"m_{base}", given.times)[0]
            node, metrics, mb = least(workflow, f"m_{measure}", given.times)
            own = max(node - floor[base], 1e-4)
            line = dict(measure=measure, rows=given.rows, threads=given.threads, value=metrics[measure], s=round(own, 5))
            line.update(node_s=round(node, 5), mb=round(mb))
            if measure in theirs:
                other = theirs[measure]
                line.update(numpy_value=other["value"], numpy_s=round(other["s"], 5), ratio=round(other["s"] / own, 2))
                line.update(relative=abs(line["value"] / other["value"] - 1) if other["value"] else None)
            print(json.dumps(line), flush=True)

        if "minhash" in given.measures:
            rows = os.path.join(folder, "minhash")
            os.makedirs(rows)
            alike = near_duplicates(os.path.join(rows, "d.jsonl"), given.minhash_rows)
            text = "refrain: 1\ndata: { rows: { path: d.jsonl } }\nstages:\n"
            text += stage("m", "data: rows, dedupe: { minhash: 0.8, shingle: 5 }", given.threads)
            workflow = Workflow(given.refrain, text, rows)
            workflow.sources = ["rows"]
            seconds, metrics, mb = least(workflow, "m", 1)
            dropped = metrics["rows_in"] - metrics["rows_out"]
            recall = dropped / alike
            print(json.dumps(dict(measure="minhash", rows=given.minhash_rows, s=round(seconds, 3), mb=round(mb), recall=recall)))


main()
