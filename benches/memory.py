"""Measures peak memory, loading and speed of a model that fills the machine; prints one JSON line a measure.

    python3 memory.py --refrain target/release/refrain --model /data/mistral-7b
    python3 memory.py --refrain target/release/refrain --model /data/gemma2-2b --roof-gflops 150 --roof-gbps 25 all trials

The model is a folder of weights.py. `score` is of 2 rows, `finetune` 2 LoRA steps of 4 rows, rows of 256 tokens,
`generate` of 16 tokens after one prompt, each in a process of its own; `all` is the three in one process. `trials` trains
four adapters at once on one base, beside one alone. Before each run the model's files are dropped from the page cache; how
long `dd` takes to read them then is measured first, and hashing, which is done once, is told apart.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time

from harness import Workflow, child, drop, simd, wait_until_idle
from models import RANK, Shape, share, work

MEASURES = ["score", "finetune", "generate", "all"]
MIB = 1 << 20


def texts(path, seed, rows, words):
    """Writes rows of random words: a prompt and a response that is longer than what is kept of it."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    known = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(2000)]
    line = lambda count: " ".join(draw.choices(known, k=count))
    with open(path, "w") as file:
        for _ in range(rows):
            file.write(json.dumps({"prompt": line(8), "response": line(words)}) + "\n")


class Bench:
    def __init__(self, options, folder):
        self.o, self.folder = options, folder
        self.model = os.path.abspath(options.model)
        names = sorted(name for name in os.listdir(self.model) if name.endswith(".safetensors"))
        self.files = [os.path.join(self.model, name) for name in names]
        self.bytes = sum(map(os.path.getsize, self.files))
        with open(os.path.join(self.model, "config.json")) as file:
            config = json.load(file)
        self.shape = Shape(config)
        self.width = 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2

    def say(self, measure, **figures):
        print(json.dumps({"measure": measure, "model": os.path.basename(self.model), **figures, "simd": simd()}), flush=True)

    def dropped(self):
        for path in self.files:
            drop(path)

    def dd(self):
        """Seconds in which `dd` reads the dropped files."""
        self.dropped()
        return sum(child(["dd", f"if={path}", "of=/dev/null", "bs=4M"]).seconds for path in self.files)

    def stage(self, name, data):
        options, threads = self.o, f"resources: {{ threads: {self.o.threads} }}"
        steps = f"steps: {options.steps}, batch_size: {options.batch_size}, order: given, schedule: constant"
        lora = f"lora: {{ rank: {RANK}, alpha: {2 * RANK} }}, {steps}, max_tokens: {options.tokens}, chat: false"
        stages = {
            "score": f"score: {{ model: base, data: {data}, of: text, max_tokens: {options.tokens} }}",
            "finetune": f"finetune: {{ model: base, data: {data}, {lora} }}",
            "generate": f"generate: {{ model: base, data: {data}, chat: false, temperature: 0.7, "
            f"max_new_tokens: {options.new}, ignore_eos: true }}",
            "trials": f'finetune: {{ model: base, data: {data}, {lora}, seed: "${{trial}}" }}',
        }
        return f"  {name}:\n    {stages[name]}\n" + (f"    {threads}\n" if name != "trials" else "")

    def workflow(self, measure, names, sweep=""):
        """A workflow of these stages, whose rows no other measure has: nothing is remembered of them."""
        options = self.o
        rows = {"score": 2, "generate": 1}
        data = stages = ""
        for number, name in enumerate(names):
            path = os.path.join(self.folder, f"{measure}-{name}.jsonl")
            count = rows.get(name, options.steps * options.batch_size)
            texts(path, f"{measure} {name}", count, options.tokens)
            data += f"  rows{number}: {{ path: {json.dumps(path)} }}\n"
            stages += self.stage(name, f"rows{number}")
        model = f"models:\n  base: {{ path: {json.dumps(self.model)} }}\n"
        return Workflow(options.refrain, f"refrain: 1\n{model}data:\n{data}stages:\n{stages}{sweep}", self.folder)

    def run(self, place, names, jobs=1):
        """Runs stages from dropped files on idle cores."""
        wait_until_idle(self.o.idle)
        self.dropped()
        return place.run(*names, jobs=jobs)

    def hash(self):
        """Hashes the model, so that no later run has to; the seconds of that and of `dd`."""
        dd = self.dd()
        place = self.workflow("hash", ["score"])
        done = self.run(place, ["base"])
        hashing = sum(span.end - span.begin for span in done.spans.named("hash") if span.args.get("name") == "base")
        time.sleep(3)  # Digests are remembered of files older than that.
        self.say("read", files_mb=round(self.bytes / MIB), dd_s=round(dd, 2), hash_s=round(hashing, 2))
        return dd

    def speed(self, done, name):
        """Tokens a second without loading, and the share of the roof."""
        options, metrics = self.o, done.metrics[name]
        if name == "finetune":
            steps = done.spans.named("step")
            seconds, tokens = steps[-1].end - steps[0].begin, metrics["tokens"]
            used = metrics["active_tokens"] / metrics["rows"]
            rows = [(options.tokens, used)] * (options.steps * options.batch_size)
            phases = work(self.shape, "lora", rows, options.batch_size, width=self.width)
        elif name == "score":
            node = done.spans.named(name, "node")[0]
            loads = [span for span in done.spans.named("load") if node.begin <= span.begin < node.end]
            seconds = node.end - node.begin - sum(span.end - span.begin for span in loads)
            tokens = metrics["tokens"]
            phases = work(self.shape, name, [(options.tokens, options.tokens - 1)] * 2, 2, width=self.width)
        else:
            node = done.spans.named(name, "node")[0]
            steps = [span for span in done.spans.named("batch") if node.begin <= span.begin < node.end]
            seconds, tokens = sum(span.end - span.begin for span in steps), sum(span.args["rows"] for span in steps)
            # Decoding alone, without the keys of the prompt.
            phases = work(self.shape, name, [(0, 1)], 1, options.new, width=self.width)[1:]
        wanted = {"score": 2, "finetune": options.steps * options.batch_size}.get(name, 0) * options.tokens
        if wanted and tokens != wanted:
            sys.exit(f"{name}: {tokens:g} tokens in place of {wanted}")
        return {"tokens": int(tokens), "tok_s": round(tokens / seconds, 2), "roof_share": share(phases, seconds, options)}

    def measure(self, name, dd):
        names = MEASURES[:3] if name == "all" else [name]
        done = self.run(self.workflow(name, names), names)
        load = done.spans.seconds("load")
        figures = {
            "peak_mb": round(done.mb),
            "peak_over_files": round(done.mb * MIB / self.bytes, 3),
            "load_s": round(load, 2),
            "load_over_dd": round(load / dd, 2),
            "foreign": round(done.foreign, 3),
        }
        self.say(name, **figures, **{stage: self.speed(done, stage) for stage in names})

    def trials(self, dd):
        """Four trials at once beside one: by how much the peak may grow, and by how much it does."""
        peaks, at_once = {}, {}
        for trials, sweep in ((1, "[4]"), (4, "[0, 1, 2, 3]")):
            place = self.workflow("trials", ["trials"], f"sweep:\n  trial: {sweep}\n")
            done = self.run(place, ["trials"], jobs=trials)
            nodes = [e for e in done.spans.events if e.get("cat") == "node" and e["args"].get("kind") == "finetune"]
            spans = [(e["ts"], e["ts"] + e["dur"]) for e in nodes]
            at_once[trials] = max(sum(a <= begin < b for a, b in spans) for begin, _ in spans)
            peaks[trials] = done.mb
        parameters = next(m["trainable_parameters"] for m in done.metrics.values() if "trainable_parameters" in m)
        allowed = 3 * (16 * parameters / MIB + self.o.activations_mb) + 0.05 * peaks[1]
        figures = {"peak_mb": round(peaks[4]), "peak_of_one_mb": round(peaks[1]), "grows_mb": round(peaks[4] - peaks[1])}
        self.say("trials", **figures, allowed_mb=round(allowed), adapter_parameters=int(parameters), at_once=at_once[4])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--model", required=True, help="folder of weights.py")
    parser.add_argument("--scratch", help="folder for workflow and cache; a temporary one by default")
    parser.add_argument("--tokens", type=int, default=256, help="of each row")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--new", type=int, default=16, help="generated tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--activations-mb", type=float, default=0, help="what a trial declares for activations, in MiB")
    parser.add_argument("--roof-gflops", type=float, help="10^9 operations a second of an FMA loop on all cores, float32")
    parser.add_argument("--roof-gbps", type=float, help="10^9 bytes a second of a read loop on all cores")
    parser.add_argument("--idle", type=float, default=60, help="seconds to wait for idle cores before a run")
    names = [*MEASURES, "trials"]
    parser.add_argument("measures", nargs="*", default=MEASURES, metavar="MEASURE", help=", ".join(names))
    options = parser.parse_args()
    for name in options.measures:
        if name not in names:
            parser.error(f"`{name}` is not a measure: {', '.join(names)}")
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        bench = Bench(options, folder)
        dd = bench.hash()
        for name in options.measures:
            bench.trials(dd) if name == "trials" else bench.measure(name, dd)


if __name__ == "__main__":
    main()
