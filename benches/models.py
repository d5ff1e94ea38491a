"""Measures a language model's stages beside PyTorch (transformers, PEFT) and llama.cpp; prints one JSON line a measure.

    python3 models.py --refrain target/release/refrain --peers BENCH --weights W/llama-30m --python V/bin/python
    python3 models.py ... --roof-gflops 150 --roof-gbps 25 --serial --profile docs/performance.md score generate-8 lora

BENCH is the folder with hf_score.py, hf_generate.py, hf_finetune.py, lcpp_bench.py, make_gguf.py and data.jsonl; W was
filled by its make_weights.py. `--python` has torch, transformers and peft; llama.cpp is measured too where
`--lcpp-python` (the same by default) has llama-cpp-python and gguf. See README-models.md.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

from harness import QUIET, Workflow, child, last_json, simd, wait_until_idle

TRAININGS = {  # name: (method, dropout)
    "lora": ("lora", 0.0),
    "dora": ("dora", 0.0),
    "full": ("full", 0.0),
    "lora-dropout": ("lora", 0.05),
    "dora-dropout": ("dora", 0.05),
}
MEASURES = ["score", "generate-1", "generate-8", "generate-32", *TRAININGS]
RANK = 16
MAX_TOKENS = 512  # as hf_finetune.py has it

# Runs a peer's script with another dropout: the script itself has none.
WITH_DROPOUT = """
import os, runpy, sys, peft
own, dropout = peft.LoraConfig, float(sys.argv[1])
peft.LoraConfig = lambda **settings: own(**{**settings, "lora_dropout": dropout})
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Counts tokens as the peers' scripts do: of texts, of prompts, and of rendered pairs with and without the response.
LENGTHS = """
import json, sys
from transformers import AutoTokenizer
tok = AutoTokenizer.from_pretrained(sys.argv[1])
rows = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8") if line.strip()][: int(sys.argv[3])]
size = lambda text, **options: len(tok(text, **options)["input_ids"])
def pair(row):
    turn = [dict(role="user", content=row["prompt"])]
    prompt = tok.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    whole = prompt + row["response"] + tok.eos_token
    return [size(text, add_special_tokens=False) for text in (prompt, whole)]
print(json.dumps(dict(
    text=[size(row["text"]) for row in rows], prompt=[size(row["prompt"]) for row in rows], pair=[pair(row) for row in rows]
)))
"""


class Shape:
    """The sizes of a model that operations and bytes follow from."""

    def __init__(self, config):
        hidden, inter = config["hidden_size"], config["intermediate_size"]
        heads = config["num_attention_heads"]
        size = config.get("head_dim") or hidden // heads
        self.layers = config["num_hidden_layers"]
        self.window = config.get("sliding_window") or 1 << 30
        self.queries = heads * size
        self.keys = config["num_key_value_heads"] * size
        qkv = [(hidden, self.queries), (hidden, self.keys), (hidden, self.keys)]
        self.modules = [*qkv, (self.queries, hidden), (hidden, inter), (hidden, inter), (inter, hidden)]
        self.linear = self.layers * sum(i * o for i, o in self.modules)
        self.first_qkv = sum(i * o for i, o in qkv)
        self.adapter = self.layers * RANK * sum(i + o for i, o in self.modules)
        self.head = hidden * config["vocab_size"]

    def attention(self, begin, end):
        """Operations of q·k and of the weighted sum, at the positions from `begin` to `end` of one row."""
        seen = sum(min(position + 1, self.window) for position in range(begin, end))
        return 4 * self.queries * self.layers * seen

    def key_bytes(self, begin, end):
        """Bytes of the keys and values that decoding at these positions of one row reads, in float32."""
        return 8 * self.keys * self.layers * sum(min(position + 1, self.window) for position in range(begin, end))


def work(shape, name, rows, batch, new=0, width=4):
    """The operations and bytes that a measure cannot do without: a list of phases `(name, operations, bytes)`.

    Operations are those of the matrix products and of attention, two for each multiply-add, over real tokens: no
    padding, nothing computed again, the head only at positions whose probabilities are used. `rows` has for each row its
    tokens and how many of them the head is needed for. Bytes are weights of `width` bytes each, read once for each pass of
    a batch.

      forward         2 × linear weights × tokens + 2 × head × used positions + attention
      score           forward
      generate        forward over the prompts with the head at their last token (prefill); then one token of each row at
                      a time, whose keys and values are read too (decode)
      input gradient  2 × linear weights × tokens + 2 × head × used positions + 2 × attention
      LoRA            forward + input gradient, without that of the first layer's q, k and v, below which nothing is
                      trained, + 3 × the adapters' forward, 2 × rank × (inputs + outputs) × tokens for each module
      DoRA            LoRA + the norms of the adapted weights once a step, 2 × rank × inputs × outputs for each module
      full            forward + input gradient + weight gradient, 2 × linear weights × tokens + 2 × head × used positions

    DoRA with dropout is counted like DoRA: PEFT multiplies by the frozen weights twice there, for the input with and
    without dropout.
    """
    tokens, used = sum(n for n, _ in rows), sum(u for _, u in rows)
    attention = sum(shape.attention(0, n) for n, _ in rows)
    linear, head = 2 * shape.linear * tokens, 2 * shape.head * used
    weights = width * (shape.linear + shape.head)
    batches = -(-len(rows) // batch)
    if name.startswith("generate"):
        decoded = [(n, n + new - 1) for n, _ in rows]
        prefill = linear + 2 * shape.head * len(rows) + attention
        decode = 2 * (shape.linear + shape.head) * len(rows) * (new - 1) + sum(shape.attention(*at) for at in decoded)
        keys = sum(shape.key_bytes(*at) for at in decoded)
        return [("prefill", prefill, batches * weights), ("decode", decode, batches * (new - 1) * weights + keys)]
    forward = linear + head + attention
    if name == "score":
        return [("score", forward, batches * weights)]
    backward = linear + head + 2 * attention
    if name == "full":
        # Weights twice; their gradients written and read; AdamW's moments read and written; the weights written.
        return [(name, forward + backward + linear + head, 9 * batches * weights)]
    backward -= 2 * shape.first_qkv * tokens
    adapters = 3 * 2 * shape.adapter * tokens
    norms = batches * 2 * RANK * shape.linear if name.startswith("dora") else 0
    return [(name, forward + backward + adapters + norms, 2 * batches * weights)]


def share(phases, seconds, options):
    """The share of the roof: the time in which the machine could do the work, over the time that it took."""
    if not options.roof_gflops or not options.roof_gbps:
        return None
    needed = sum(max(ops / options.roof_gflops, size / options.roof_gbps) / 1e9 for _, ops, size in phases)
    return round(needed / seconds, 3)


class Bench:
    def __init__(self, options, folder):
        self.o, self.folder = options, folder
        self.data = os.path.abspath(options.data or os.path.join(options.peers, "data.jsonl"))
        self.weights = os.path.abspath(options.weights)
        with open(os.path.join(self.weights, "config.json")) as file:
            self.shape = Shape(json.load(file))
        threads = str(options.threads)
        self.environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        most = max(options.rows, options.prompts, options.batch_size * (options.steps + options.warmup))
        counted = child([options.python, "-c", LENGTHS, self.weights, self.data, str(most)], environment=self.environment)
        self.lengths = last_json(counted.out)
        self.gguf = self.make_gguf()

    def make_gguf(self):
        """The weights as llama.cpp reads them, or nothing where it is not installed."""
        python = self.o.lcpp_python or self.o.python
        found = subprocess.run([python, "-c", "import llama_cpp, gguf"], stderr=subprocess.DEVNULL)
        if self.o.no_lcpp or found.returncode != 0:
            return None
        path = os.path.join(self.folder, "f32.gguf")
        child([python, os.path.join(self.o.peers, "make_gguf.py"), self.weights, path, "--type", "f32"])
        return path

    # The measures to run.

    def workflow(self, name, threads):
        """The workflow of a measure: one stage, `it`, over the rows that the peers take."""
        options, resources = self.o, f"threads: {threads}"
        columns = rows = ""
        if name == "score":
            stage, rows = "score: { model: base, data: rows, of: text }", options.rows
            columns = ", drop: [response], columns: { response: text }"
            resources += f", batch: {options.batch_size}"
        elif name.startswith("generate"):
            batch = int(name.split("-")[1])
            sampled = f"temperature: 0.7, max_new_tokens: {options.new}, ignore_eos: true"
            stage, rows = f"generate: {{ model: base, data: rows, chat: false, {sampled} }}", self.prompts(batch)
            resources += f", batch: {batch}"
        else:
            method, dropout = TRAININGS[name]
            steps = options.steps + options.warmup
            dora = ", dora: true" if method == "dora" else ""
            what = f"lora: {{ rank: {RANK}, alpha: {2 * RANK}, dropout: {dropout}{dora} }}"
            what = "full: true" if method == "full" else what
            how = f"steps: {steps}, batch_size: {options.batch_size}, order: given, schedule: constant"
            stage = f"finetune: {{ model: base, data: rows, {what}, {how}, max_tokens: {MAX_TOKENS} }}"
            rows = steps * options.batch_size
        return (
            f"refrain: 1\nmodels:\n  base: {{ path: {json.dumps(self.weights)} }}\n"
            f"data:\n  rows: {{ path: {json.dumps(self.data)}{columns}, rows: {{ first: {rows} }} }}\n"
            f"stages:\n  it:\n    {stage}\n    resources: {{ {resources} }}\n"
        )

    def prompts(self, batch):
        """The number of prompts: whole batches only."""
        return -(-self.o.prompts // batch) * batch

    def peer(self, name):
        """The command of PyTorch's side."""
        options = self.o
        script = lambda file: os.path.abspath(os.path.join(options.peers, file))
        common = [self.weights, self.data, "--threads", str(options.threads)]
        if name == "score":
            sizes = ["--batch-size", str(options.batch_size), "--limit", str(options.rows)]
            return [options.python, script("hf_score.py"), *common, *sizes]
        if name.startswith("generate"):
            batch = name.split("-")[1]
            sizes = ["--batch-size", batch, "--n", str(self.prompts(int(batch))), "--max-new-tokens", str(options.new)]
            return [options.python, script("hf_generate.py"), *common, *sizes]
        method, dropout = TRAININGS[name]
        wrapped = ["-c", WITH_DROPOUT, str(dropout)] if dropout else []
        sizes = ["--method", method, "--r", str(RANK), "--alpha", str(2 * RANK), "--batch-size", str(options.batch_size)]
        sizes += ["--steps", str(options.steps), "--warmup-steps", str(options.warmup), "--max-len", str(MAX_TOKENS)]
        return [options.python, *wrapped, script("hf_finetune.py"), *common, *sizes]

    def lcpp(self, name):
        """The command of llama.cpp's side, or nothing where it has none."""
        if self.gguf is None or name in TRAININGS:
            return None
        options, (what, *batch) = self.o, name.split("-")
        sizes = ["--limit", str(options.rows)]
        if batch:
            sizes = ["--batch-size", batch[0], "--n", str(self.prompts(int(batch[0]))), "--max-new-tokens", str(options.new)]
        script = os.path.join(options.peers, "lcpp_bench.py")
        files = [self.gguf, os.path.join(self.weights, "tokenizer.json"), self.data]
        return [options.lcpp_python or options.python, script, what, *files, "--threads", str(options.threads), *sizes]

    # One run of either side: tokens, seconds of them without loading, and the child's figures.

    def quiet(self, run):
        """Runs on idle cores, again where others took more than 5 % of them meanwhile."""
        for _ in range(self.o.retries + 1):
            wait_until_idle(self.o.idle)
            done = run()
            if done.foreign < 0.05:
                break
        return done

    def ours(self, name, threads):
        place = Workflow(self.o.refrain, self.workflow(name, threads), os.path.join(self.folder, name))

        def run():
            place.forget()
            return place.run("it")

        done = self.quiet(run)
        node, load = done.spans.seconds("it", "node"), done.spans.seconds("load")
        metrics = done.metrics["it"]
        done.tokens, done.work, done.load, done.node = 0, node - load, load, node
        if name in TRAININGS:
            steps = done.spans.named("step")[self.o.warmup :]
            done.work = steps[-1].end - steps[0].begin
            done.tokens = sum(step["tokens"] for step in done.spans.instants("step") if step["step"] >= self.o.warmup)
        else:
            done.tokens = int(metrics["tokens" if name == "score" else "generated_tokens"])
        batches = done.spans.named("batch")
        if name.startswith("generate"):
            done.decode = done.spans.seconds("batch"), sum(batch.args["rows"] for batch in batches)
        return done

    def theirs(self, command):
        done = self.quiet(lambda: child(command, environment=self.environment))
        told = last_json(done.out)
        done.tokens, done.work = told.get("new_tokens", told.get("tokens")), told["seconds"]
        done.load = told["load_s"]
        return done

    # The measure.

    def rows_of(self, name):
        """Tokens of each row, and for how many of them the head is needed, of what is timed; rows of a batch."""
        options = self.o
        if name == "score":
            return [(n, n - 1) for n in self.lengths["text"][: options.rows]], options.batch_size
        if name.startswith("generate"):
            batch = int(name.split("-")[1])
            return [(n, 1) for n in self.lengths["prompt"][: self.prompts(batch)]], batch
        begin = options.warmup * options.batch_size
        pairs = self.lengths["pair"][begin : begin + options.steps * options.batch_size]
        cut = [(min(p, MAX_TOKENS), min(n, MAX_TOKENS)) for p, n in pairs]
        return [(n, n - p) for p, n in cut], options.batch_size

    def measure(self, name):
        found = {"ours": [], "theirs": [], "llama_cpp": [], "alone": []}
        for _ in range(self.o.rounds):
            found["ours"].append(self.ours(name, self.o.threads))
            found["theirs"].append(self.theirs(self.peer(name)))
            if self.lcpp(name):
                found["llama_cpp"].append(self.theirs(self.lcpp(name)))
            if self.o.serial:
                found["alone"].append(self.ours(name, 1))
        compared = [run for side in ("ours", "theirs", "llama_cpp") for run in found[side]]
        if len({run.tokens for run in compared}) > 1:
            sys.exit(f"{name}: not the same tokens on all sides: {sorted({run.tokens for run in compared})}")
        return self.line(name, found)

    def line(self, name, found):
        """Medians of the rounds, and what they mean."""
        runs = found["ours"]
        speed = lambda side: [run.tokens / run.work for run in found[side]]
        middle = lambda values: statistics.median(values)
        peak = lambda side: round(max(run.mb for run in found[side]))
        ratios = [a / b for a, b in zip(speed("ours"), speed("theirs"))]
        rows, batch = self.rows_of(name)
        phases = work(self.shape, name, rows, batch, self.o.new)
        seconds = middle([run.work for run in runs])
        line = {
            "measure": name,
            "ours": round(middle(speed("ours")), 1),
            "theirs": round(middle(speed("theirs")), 1),
            "ratio": round(middle(speed("ours")) / middle(speed("theirs")), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
            "ours_mb": peak("ours"),
            "theirs_mb": peak("theirs"),
            "roof_share": share(phases, seconds, self.o),
            "simd": self.o.simd or simd(),
        }
        if found["llama_cpp"]:
            line["llama_cpp"] = round(middle(speed("llama_cpp")), 1)
            line["llama_cpp_ratio"] = round(line["ours"] / line["llama_cpp"], 3)
            line["llama_cpp_mb"] = peak("llama_cpp")
        if name.startswith("generate"):
            spent, decoded = (middle([run.decode[k] for run in runs]) for k in (0, 1))
            line["decode"] = round(decoded / spent, 1)
            line["decode_roof_share"] = share(phases[1:], spent, self.o)
        if found["alone"]:
            threads, once = self.o.threads, middle([run.work for run in found["alone"]])
            line["serial"] = round(max(0.0, (threads * seconds / once - 1) / (threads - 1)), 3)
        line.update(
            tokens=runs[0].tokens,
            seconds=round(seconds, 3),
            gop={phase: round(ops / 1e9, 1) for phase, ops, _ in phases},
            gb={phase: round(size / 1e9, 2) for phase, _, size in phases},
            load_s={side: round(middle([run.load for run in found[side]]), 3) for side in ("ours", "theirs")},
            node=round(runs[0].tokens / middle([run.node for run in runs]), 1) if name not in TRAININGS else None,
            cpu_s={side: round(middle([run.cpu for run in found[side]]), 2) for side in ("ours", "theirs")},
            rounds={side: [round(value, 1) for value in speed(side)] for side in found if found[side]},
            foreign=round(max(run.foreign for side in found.values() for run in side), 3),
        )
        return line


def keep(path, lines, width):
    """Writes the measures into a Markdown file, in place of the table of this instruction set where it has one."""
    head = "| measure | tok/s | PyTorch | ratio | Gop | GB | share of the roof | serial |\n|---|---|---|---|---|---|---|---|\n"
    amount = lambda parts: " + ".join(f"{value:g}" for value in parts.values())
    cell = lambda value: "" if value is None else f"{value:.0%}"
    roof = lambda l: cell(l["roof_share"]) + (f" (decode {cell(l['decode_roof_share'])})" if l.get("decode_roof_share") else "")
    rows = [
        f"| {l['measure']} | {l['ours']:g} | {l['theirs']:g} | {l['ratio']:g} | {amount(l['gop'])} | {amount(l['gb'])} "
        f"| {roof(l)} | {cell(l.get('serial'))} |\n"
        for l in lines
    ]
    begin, end = f"<!-- profile {width} -->\n", f"<!-- end of profile {width} -->\n"
    table = f"{begin}{head}{''.join(rows)}{end}"
    text = ""
    if os.path.exists(path):
        with open(path) as file:
            text = file.read()
    if begin in text and end in text:
        text = text[: text.index(begin)] + table + text[text.index(end) + len(end) :]
    else:
        text = f"{text}\n{table}".lstrip("\n")
    with open(path, "w") as file:
        file.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refrain", required=True)
    parser.add_argument("--peers", required=True, help="folder of the peers' scripts")
    parser.add_argument("--weights", required=True, help="folder of llama-30m, filled by make_weights.py")
    parser.add_argument("--python", default=sys.executable, help="has torch, transformers and peft")
    parser.add_argument("--lcpp-python", help="has llama-cpp-python and gguf; `--python` by default")
    parser.add_argument("--no-lcpp", action="store_true", help="leaves out llama.cpp")
    parser.add_argument("--data", help="data.jsonl of the peers' folder by default")
    parser.add_argument("--scratch", help="folder for workflows and caches; a temporary one by default")
    parser.add_argument("--rows", type=int, default=512, help="rows to score")
    parser.add_argument("--prompts", type=int, default=32, help="prompts, rounded up to whole batches")
    parser.add_argument("--new", type=int, default=64, help="new tokens of each prompt")
    parser.add_argument("--batch-size", type=int, default=8, help="of scoring and training")
    parser.add_argument("--steps", type=int, default=8, help="steps of training that are timed")
    parser.add_argument("--warmup", type=int, default=2, help="steps before those")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--roof-gflops", type=float, help="10^9 operations a second of an FMA loop on all cores, float32")
    parser.add_argument("--roof-gbps", type=float, help="10^9 bytes a second of a read loop on all cores")
    parser.add_argument("--simd", help="the instruction set, where it is not the processor's widest")
    parser.add_argument("--serial", action="store_true", help="runs on one thread too, for the serial share")
    parser.add_argument("--profile", metavar="FILE", help="writes the table of this machine into a Markdown file")
    parser.add_argument("--idle", type=float, default=60, help="seconds to wait for idle cores before a run")
    parser.add_argument("--retries", type=int, default=2, help="runs in place of a disturbed one")
    parser.add_argument("measures", nargs="*", default=MEASURES, metavar="MEASURE", help=", ".join(MEASURES))
    options = parser.parse_args()
    for name in options.measures:
        if name not in MEASURES and not re.fullmatch(r"generate-[1-9]\d*", name):
            parser.error(f"`{name}` is not a measure: {', '.join(MEASURES)}")
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        bench, lines = Bench(options, folder), []
        for name in options.measures:
            lines.append(bench.measure(name))
            print(json.dumps(lines[-1]), flush=True)
    if options.profile:
        keep(options.profile, lines, options.simd or simd())


if __name__ == "__main__":
    main()
