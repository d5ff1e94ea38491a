"""Writes the documents of the tasks beside it, and what lm-evaluation-harness says of them.

    pip install lm-eval[hf]
    python reference.py MODELS      # the folder with the parity models `llama` and `qwen2`

The documents are made here. The models are random, so half of the expected answers are set to what the
models themselves say: a comparison in which every verdict is "wrong" would compare nothing.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import lm_eval
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

HERE = Path(__file__).parent
MODELS = ["llama", "qwen2"]
TASKS = ["sums", "pick", "pick_first", "last_word", "claims", "names"]

PEOPLE = ["Ida", "Omar", "Lena", "Tariq", "Vera", "Nils", "Ruth", "Ken"]
THINGS = ["pens", "figs", "stones", "shells", "coins"]
COLOURS = ["red", "green", "blue", "grey", "black"]
KINDS = [("a crow", "bird"), ("a trout", "fish"), ("an oak", "tree"), ("a wasp", "insect"), ("a goat", "mammal")]


def sums(start, count):
    rows = []
    for i in range(start, start + count):
        who, what = PEOPLE[i % 8], THINGS[i % 5]
        a, b = 3 + i * 7 % 40, 2 + i * 11 % 30
        ask = f"{who} has {a} {what} and finds {b} more. How many {what} are there?"
        rows.append({"question": ask, "answer": f"{a} and {b} make {a + b}.\n#### {a + b}"})
    return rows


def pick(count):
    rows = []
    for i in range(count):
        thing, kind = KINDS[i % 5]
        texts = [k for _, k in KINDS][: 3 + i % 3]
        if kind not in texts:
            texts[-1] = kind
        if i % 4 == 1:
            texts = [f"it is {'an' if t[0] in 'aeiou' else 'a'} {t}" for t in texts]
            kind = next(t for t in texts if t.endswith(f" {kind}"))
        if i % 7 == 3:
            texts[0], kind = texts[0] + ", naturally", kind + ", naturally" if texts[0] == kind else kind
        labels = list("ABCDE" if i % 3 else "12345")[: len(texts)]
        ask = f"What is {thing}, seen by {PEOPLE[i % 8]}?" + (" " if i % 6 == 2 else "")
        rows.append({
            "id": f"pick-{i}",
            "question": ask,
            "choices": {"text": texts, "label": labels},
            "answerKey": labels[texts.index(kind)],
        })
    return rows


def claims(count):
    rows = []
    for i in range(count):
        a, b = i * 5 % 13, i * 3 % 11
        tail = ["", " ", "\n"][i % 3]
        rows.append({"claim": f"{a} is less than {b}.{tail}", "topic": COLOURS[i % 5], "holds": int(a < b)})
    return rows


def names(count):
    rows = []
    for i in range(count):
        thing, kind = KINDS[i % 5]
        note = f"say it in {COLOURS[i % 5]}" if i % 2 else None
        rows.append({"question": f" {PEOPLE[i % 8]} saw {thing}, a what? {i}", "note": note, "aliases": [kind, f"the {kind}"]})
    return rows


def last_words(count, greedy):
    rows = []
    for i in range(count):
        for variant in range(60):
            who, what = PEOPLE[(i + variant) % 8], THINGS[(i + variant // 8) % 5]
            text = f"{who} put {2 + i + variant} {what} in a box. Later {PEOPLE[(i + 3) % 8]} looked in and saw the"
            word = greedy(text) if i % 2 else what
            if word:
                break
        rows.append({"text": f"{text} {word or what}"})
    return rows


def greedy_word(model):
    import torch

    def word(text):
        ids = torch.tensor([model.tok_encode(text)])
        with torch.no_grad():
            token = int(model.model(ids).logits[0, -1].argmax())
        found = model.tok_decode([token])
        # It must be a word of its own, and the same token behind the text.
        whole = model.tok_encode(text + found)
        return found[1:] if found.startswith(" ") and found[1:].isalpha() and whole[-1] == token else None

    return word


def write(name, rows):
    (HERE / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def rows_of(name):
    return [json.loads(line) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]


def evaluate(model, tasks):
    with tempfile.TemporaryDirectory() as folder:
        for task in tasks:
            data = {"pick_first": "pick"}.get(task, task)
            files = {"test": str(HERE / f"{data}.jsonl")}
            if task == "sums":
                files["train"] = str(HERE / "sums_train.jsonl")
            name = f"local_{task}"
            config = {
                "include": str(HERE / f"{task}.yaml"),
                "task": name,
                "tag": None,
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": files},
            }
            Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(config))
        manager = TaskManager(include_path=folder, include_defaults=False)
        return lm_eval.simple_evaluate(
            model=model,
            tasks=[f"local_{task}" for task in tasks],
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
            cache_requests=False,
        )


def first_filter_answers(found, task, filter_name):
    samples = [s for s in found["samples"][f"local_{task}"] if s["filter"] == filter_name]
    return {sample["doc_id"]: sample["filtered_resps"][0] for sample in samples}


def settle(model):
    """Sets half of the expected answers to what the model says; it says the same again."""
    write("sums_train", sums(0, 12))
    write("sums", sums(12, 36))
    write("names", names(32))
    found = evaluate(model, ["sums"])
    flexible = first_filter_answers(found, "sums", "flexible-extract")
    rows = rows_of("sums")
    for i, row in enumerate(rows):
        said = flexible[i]
        if i % 2 and said != "[invalid]":
            row["answer"] = f"So it is.\n#### {said}"
        if i % 9 == 4:
            row["answer"] = "#### [invalid]"
    write("sums", rows)
    # Here the answers are the examples of other questions: a change of one changes what others say.
    # So the rounds end when enough are right.
    for _ in range(6):
        found = evaluate(model, ["names"])
        word = first_filter_answers(found, "names", "first-word")
        whole = first_filter_answers(found, "names", "stripped")
        rows = rows_of("names")
        for i, row in enumerate(rows):
            if i % 2:
                row["aliases"][1] = (word[i] if i % 4 == 1 else whole[i]).upper()
        write("names", rows)


def main(models):
    first = HFLM(pretrained=f"{models}/{MODELS[0]}/model", device="cpu", dtype="float32", batch_size=1)
    write("pick", pick(40))
    write("claims", claims(36))
    write("last_word", last_words(36, greedy_word(first)))
    settle(first)
    for name in MODELS:
        model = HFLM(pretrained=f"{models}/{name}/model", device="cpu", dtype="float32", batch_size=1)
        found = evaluate(model, TASKS)
        expected = {"lm_eval": lm_eval.__version__, "model": name, "tasks": {}}
        for task in TASKS:
            rows = []
            for sample in found["samples"][f"local_{task}"]:
                arguments = sample["arguments"]
                row = {
                    "doc": sample["doc_id"],
                    "filter": sample["filter"],
                    "prompt": arguments[0][0],
                    "target": sample["target"],
                    "verdicts": {metric: sample[metric] for metric in sample["metrics"]},
                }
                if task in ("sums", "names"):
                    row["response"] = sample["resps"][0][0]
                    row["answer"] = sample["filtered_resps"][0]
                else:
                    row["continuations"] = [argument[1] for argument in arguments]
                    row["logprobs"] = [round(float(resp[0][0]), 5) for resp in sample["resps"]]
                    row["greedy"] = [str(resp[0][1]) == "True" for resp in sample["resps"]]
                rows.append(row)
            rows.sort(key=lambda row: (row["filter"], row["doc"]))
            figures = {k: v for k, v in found["results"][f"local_{task}"].items() if k.split(",")[0] not in ("alias", "name", "sample_len") and "stderr" not in k}
            expected["tasks"][task] = {"figures": figures, "rows": rows}
            print(name, task, figures, file=sys.stderr)
        (HERE / f"{name}.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False, default=float) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
