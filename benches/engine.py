"""Measures the engine beside ninja on the same DAG; prints one JSON line a measure. See README.md in this folder.

usage: engine.py --refrain PATH --folder SCRATCH [--width N] [--ninja PATH | --no-ninja] [--snakemake PATH] [MEASURE...]
"""

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import time

DEPTH = 10
NULL = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]


def once(command, folder):
    """Seconds, peak memory in MB and exit status of a command, its output thrown away."""
    os.chdir(folder)
    begin = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ, file_actions=NULL)
    _, status, usage = os.wait4(child, 0)
    return time.perf_counter() - begin, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


def timed(command, folder, repeat=1, before=lambda: None, wanted=(0,)):
    """The median time of some runs, and the largest peak."""
    runs = []
    for _ in range(repeat):
        before()
        runs.append(once(command, folder))
        if runs[-1][2] not in wanted:
            sys.exit(f"`{' '.join(command)}` in {folder} ended with {runs[-1][2]}")
    seconds = [run[0] for run in runs]
    return {"s": round(statistics.median(seconds), 4), "least": round(min(seconds), 4), "mb": round(max(r[1] for r in runs), 1)}


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with open(f"{folder}/in.txt", "w") as file:
        file.write("seed\n")


def step(source, at):
    command = f"cat ${{in.x}} > ${{out.y}}; echo {at} >> ${{out.y}}"
    return f'run: {{ command: [sh, -c, "{command}"], inputs: {{ x: {source} }}, outputs: {{ y: file }} }}'


HEAD = "refrain: 1\nname: chains\ndata:\n  seed: { path: in.txt, type: file }\n"


def sweep(folder, width):
    """A sweep of `width` points over a chain of ten stages."""
    stages = [f"  s{d}: {{ {step('seed' if d == 0 else f's{d - 1}', f'${{w}} {d}')} }}\n" for d in range(DEPTH)]
    with open(f"{folder}/w.yaml", "w") as file:
        file.write(f"{HEAD}stages:\n{''.join(stages)}sweep:\n  w: [{', '.join(map(str, range(width)))}]\n")


def written(folder, width):
    """The same DAG, every stage written in the YAML."""
    with open(f"{folder}/w.yaml", "w") as file:
        file.write(f"{HEAD}stages:\n")
        for w in range(width):
            for d in range(DEPTH):
                source = "seed" if d == 0 else f"s{w}_{d - 1}"
                file.write(f"  s{w}_{d}: {{ {step(source, f'{w} {d}')} }}\n")


def ninja(folder, width):
    os.makedirs(f"{folder}/o", exist_ok=True)
    with open(f"{folder}/build.ninja", "w") as file:
        file.write("rule step\n  command = cat $in > $out; echo $at >> $out\nrule join\n  command = echo done > $out\n")
        for w in range(width):
            for d in range(DEPTH):
                source = "in.txt" if d == 0 else f"o/{w}_{d - 1}.txt"
                file.write(f"build o/{w}_{d}.txt: step {source}\n  at = {w} {d}\n")
        ends = " ".join(f"o/{w}_{DEPTH - 1}.txt" for w in range(width))
        file.write(f"build all.txt: join {ends}\ndefault all.txt\n")


def snakemake(folder, width):
    os.makedirs(f"{folder}/o", exist_ok=True)
    with open(f"{folder}/Snakefile", "w") as file:
        file.write(f"rule all:\n  input: expand('o/{{w}}_{DEPTH - 1}.txt', w=range({width}))\n")
        for d in range(DEPTH):
            source = "in.txt" if d == 0 else f"o/{{w}}_{d - 1}.txt"
            shell = f"cat {{input}} > {{output}}; echo {{wildcards.w}} {d} >> {{output}}"
            file.write(f"rule step{d}:\n  input: '{source}'\n  output: 'o/{{w}}_{d}.txt'\n  shell: '{shell}'\n")


class Bench:
    def __init__(self, options):
        self.o = options
        self.root = os.path.abspath(options.folder)
        self.refrain = shutil.which(options.refrain) and os.path.abspath(shutil.which(options.refrain))
        self.ninja = None if options.no_ninja else shutil.which(options.ninja)
        os.makedirs(self.root, exist_ok=True)

    def place(self, name):
        return f"{self.root}/{name}-{self.o.width}"

    def say(self, measure, **figures):
        ratio = {}
        if "refrain" in figures and "ninja" in figures:
            ratio["ratio"] = round(figures["refrain"]["s"] / figures["ninja"]["s"], 3)
        nodes = self.o.width * DEPTH
        print(json.dumps({"measure": measure, "nodes": nodes, **figures, **ratio}), flush=True)

    def run(self, shape, *arguments, **options):
        return timed([self.refrain, "run", "w.yaml", "--quiet", *arguments], self.place(shape), **options)

    def filled(self, shape):
        """The folder of a workflow that has run, and is old enough for its files to be remembered."""
        folder = self.place(shape)
        if not os.path.exists(f"{folder}/w.lock"):
            self.empty(shape)
            once([self.refrain, "run", "w.yaml", "--quiet"], folder)
            time.sleep(2.5)
            once([self.refrain, "run", "w.yaml", "--quiet"], folder)
        return folder

    def empty(self, shape):
        folder = self.place(shape)
        fresh(folder)
        {"sweep": sweep, "written": written, "ninja": ninja, "snakemake": snakemake}[shape](folder, self.o.width)
        # What was removed and made would else be written back while the next command is timed.
        os.sync()

    def peer(self):
        """What is measured beside: ninja, on the same DAG."""
        if not self.ninja:
            return {}
        folder = self.place("ninja")
        if not os.path.exists(f"{folder}/all.txt"):
            self.empty("ninja")
            once([self.ninja, f"-j{self.o.jobs}"], folder)
        return {"ninja": timed([self.ninja], folder, 9)}

    def cold(self):
        """In folders where nothing was before: ext4 without a journal avoids the places of removed files for minutes, at
        a price that grows with their number, so that a round would pay for the clearing away of the one before it."""
        commands = {"refrain": ("sweep", [self.refrain, "run", "w.yaml", "--quiet", "--jobs", str(self.o.jobs)])}
        if self.ninja:
            commands["ninja"] = ("ninja", [self.ninja, f"-j{self.o.jobs}"])
        figures = {name: [] for name in commands}
        root, rounds = self.root, []
        for _ in range(self.o.cold):
            self.root = f"{root}/cold-{time.time_ns()}"
            rounds.append(self.root)
            for name, (shape, command) in commands.items():
                self.empty(shape)
                figures[name].append(timed(command, self.place(shape)))
        self.root = root
        self.say("from nothing", **{n: sorted(f, key=lambda f: f["s"])[len(f) // 2] for n, f in figures.items()})
        for folder in rounds:
            shutil.rmtree(folder)

    def noop(self):
        for shape in ["sweep", "written"]:
            # YAML texts above 16 MB are refused.
            if shape == "written" and self.o.width > 2000:
                continue
            self.filled(shape)
            self.say(f"no-op, {shape}", refrain=self.run(shape, repeat=9), **self.peer())

    def planned(self):
        """Without what is kept of the last run: after any edit of the text."""
        for shape in ["sweep", "written"]:
            if shape == "written" and self.o.width > 2000:
                continue
            folder = self.filled(shape)
            forget = lambda: shutil.rmtree(f"{folder}/.refrain/plans", ignore_errors=True)
            self.say(f"no-op, {shape}, planned", refrain=self.run(shape, repeat=5, before=forget))

    def edited(self):
        """One value of the sweep is another: ten nodes run, all are planned."""
        folder = self.filled("sweep")
        values = itertools.count(self.o.width)

        def edit():
            with open(f"{folder}/w.yaml") as file:
                text = file.read()
            with open(f"{folder}/w.yaml", "w") as file:
                file.write(re.sub(r"  w: \[\d+", f"  w: [{next(values)}", text))

        self.say("one point of the sweep edited", refrain=self.run("sweep", repeat=3, before=edit))
        shutil.rmtree(folder)

    def looks(self):
        folder = self.filled("sweep")
        commands = [["check"], ["plan"], ["plan", "--summary"], ["explain"], ["verify", "--no-data"], ["verify"], ["results"]]
        for command in commands:
            node = [f"s{DEPTH - 1}[w=7]"] if command == ["explain"] else []
            figures = timed([self.refrain, command[0], "w.yaml", *node, *command[1:]], folder, 3)
            self.say(" ".join(command), refrain=figures)
        cache = ["--cache", f"{self.root}/no-cache"]
        figures = timed([self.refrain, "verify", "w.yaml", "--no-data", *cache], folder, 3)
        self.say("verify --no-data, no cache", refrain=figures)

    def sizes(self):
        folder = self.filled("sweep")
        plans = f"{folder}/.refrain/plans"
        files = {
            "workflow": f"{folder}/w.yaml",
            "lock": f"{folder}/w.lock",
            "records": f"{folder}/.refrain/records/records.log",
            "digests of files": f"{folder}/.refrain/records/files.log",
        }
        sizes = {name: os.path.getsize(path) for name, path in files.items()}
        sizes["kept plan"] = sum(os.path.getsize(f"{plans}/{name}") for name in os.listdir(plans))
        self.say("sizes", bytes=sizes)

    def snakemake(self):
        """Takes minutes from nothing; not among what is measured by default."""
        command = [self.o.snakemake, f"-j{self.o.jobs}", "--quiet", "all"]
        self.empty("snakemake")
        first = timed(command, self.place("snakemake"))
        self.say("snakemake", first=first, again=timed(command, self.place("snakemake"), 3))


DEFAULT = ["noop", "planned", "looks", "sizes", "edited", "cold"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--refrain", default="refrain")
    arguments.add_argument("--ninja", default="ninja")
    arguments.add_argument("--no-ninja", action="store_true")
    arguments.add_argument("--snakemake", default="snakemake")
    arguments.add_argument("--folder", required=True)
    arguments.add_argument("--width", type=int, default=1000, help="points of the sweep; ten nodes each")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments.add_argument("--cold", type=int, default=3, help="runs from nothing")
    arguments.add_argument("measures", nargs="*", default=DEFAULT, metavar="MEASURE", help=", ".join([*DEFAULT, "snakemake"]))
    options = arguments.parse_args()
    bench = Bench(options)
    for measure in options.measures:
        getattr(bench, measure)()


if __name__ == "__main__":
    main()
