"""Scores our adapters and merged models with PEFT and transformers, and trains adapters for us to score.

Called by the Rust test `peft` as `python peft_round_trip.py JOB RESULT` with two JSON files. The job is a list of models:
    base      a model folder
    texts     texts, and `ids` the tokens that we make of them
    ours      {name: folder of an adapter that we wrote}
    merged    a folder of a whole model that we wrote
    theirs    {name: {"settings": arguments of LoraConfig, "folder": where the trained adapter is to be saved}}
The result has for each model the log-probabilities of all tokens after the first as `ours`, `merged` and `theirs`, and
`ids`, the tokens that the merged folder's tokenizer makes of the texts.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may come from elsewhere

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(folder):
    # Eager attention is the one that can cap its scores, as Gemma 2 does.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def logprobs(model, rows):
    scored = []
    for ids in rows:
        ids = torch.tensor([ids])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].double()
        values = torch.log_softmax(logits, dim=-1).gather(1, ids[0, 1:, None])[:, 0]
        scored.append(values.tolist())
    return scored


def train(base, rows, settings, folder):
    torch.manual_seed(0)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", target_modules=TARGETS, **settings))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for ids in rows * 2:
        ids = torch.tensor([ids])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return logprobs(model.eval(), rows)


def run(job):
    rows = job["ids"]
    tokenizer = AutoTokenizer.from_pretrained(job["merged"])
    return {
        "ours": {
            name: logprobs(PeftModel.from_pretrained(load(job["base"]), folder).eval(), rows)
            for name, folder in job["ours"].items()
        },
        "merged": logprobs(load(job["merged"]), rows),
        "ids": [tokenizer(text)["input_ids"] for text in job["texts"]],
        "theirs": {
            name: train(job["base"], rows, theirs["settings"], theirs["folder"])
            for name, theirs in job["theirs"].items()
        },
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open(sys.argv[1]) as file:
        jobs = json.load(file)
    with open(sys.argv[2], "w") as file:
        json.dump([run(job) for job in jobs], file)
