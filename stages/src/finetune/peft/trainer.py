"""Trains a causal language model on rows that Refrain has tokenised, masked and ordered.

`docs/trainer.md` is the contract. Nothing random happens here: Refrain gives token ids, labels, the
rows of every step, its learning rate and the initial adapter. The loss of a step is summed over its
active tokens, whatever the micro-batches and the number of processes.

    python trainer.py settings.json
"""

import contextlib
import inspect
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path

FORMAT = 1
IGNORED = -100
PACKAGES = ["torch", "transformers", "peft", "accelerate"]
# Writing checkpoints takes at most about one part in so many of the time.
SHARE = 20
SMALLER = "a smaller learning rate or clipping may help"


class Refused(Exception):
    """An error that is explained to the user without a traceback."""

    def __init__(self, message, hint=None, environment=False):
        super().__init__(message)
        self.hint = hint
        # Whether the machine lacks something.
        self.environment = environment


class Report:
    """Events for Refrain, a line of JSON each."""

    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def __call__(self, event, **fields):
        if int(os.environ.get("RANK", "0")) == 0:
            line = json.dumps({"event": event, **fields}, allow_nan=False)
            self.file.write(line + "\n")
            self.file.flush()


def import_all(settings):
    """Imports the packages, so that one that is absent is named with the line that installs it."""
    wanted = PACKAGES + (["bitsandbytes"] if settings["quantization"] else [])
    missing = []
    for name in wanted + ["safetensors"]:
        try:
            __import__(name)
        except ImportError as error:
            # Installed, but something that it needs is not.
            if error.name not in (None, name):
                raise Refused(f"`{sys.executable}` cannot import `{name}`: {error}", environment=True) from error
            missing.append(name)
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        line = " ".join([sys.executable, "-m pip install", *missing])
        raise Refused(f"`{sys.executable}` has no {names}", f"`{line}`", environment=True)
    import transformers

    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if release < (4, 56):
        message = f"transformers {transformers.__version__} is too old: 4.56 is the first that is used"
        raise Refused(message, f"`{sys.executable} -m pip install --upgrade transformers`", environment=True)


class Stop:
    """Whether Refrain asked for an end."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self.ask)
        if os.environ.get("REFRAIN_HOLDS_STDIN"):
            threading.Thread(target=self.watch, daemon=True).start()

    def ask(self, *_):
        self.asked = True

    def watch(self):
        """Ends the process when Refrain is gone, which holds the other end of the pipe."""
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os._exit(1)


class Rows:
    """The rows of a table: token ids, and labels that are `IGNORED` where a token is not trained."""

    def __init__(self, tensors, prefix=""):
        self.ids = tensors[prefix + "ids"]
        self.labels = tensors[prefix + "labels"]
        self.offsets = tensors[prefix + "offsets"].tolist()

    def __len__(self):
        return len(self.offsets) - 1

    def row(self, number):
        begin, end = self.offsets[number], self.offsets[number + 1]
        return self.ids[begin:end].long(), self.labels[begin:end].long()

    def length(self, number):
        return self.offsets[number + 1] - self.offsets[number]

    def active(self, numbers):
        """The number of tokens that are trained in these rows."""
        return sum(int((self.row(number)[1][1:] != IGNORED).sum()) for number in numbers)


class Plan:
    """The rows of each step, and its learning rate."""

    def __init__(self, tensors):
        self.order = tensors["order"].tolist()
        self.batches = tensors["batches"].tolist()
        self.steps = tensors["steps"].tolist()
        self.rates = tensors["rates"].tolist()

    def __len__(self):
        return len(self.rates)

    def micro_batches(self, step, rank, world, size):
        """The micro-batches of one process.

        One process gets them as they are planned. Of several each gets every `world`th row of the
        step, and all get equally many micro-batches; one without rows is empty.
        """
        first, last = self.steps[step], self.steps[step + 1]
        if world == 1:
            return [self.order[self.batches[i]:self.batches[i + 1]] for i in range(first, last)]
        rows = self.rows(step)
        own = rows[rank::world]
        count = -(-(-(-len(rows) // world)) // size)
        return [own[i * size:(i + 1) * size] for i in range(count)]

    def rows(self, step):
        return self.order[self.batches[self.steps[step]]:self.batches[self.steps[step + 1]]]


def load_model(settings, accelerator, device=None):
    """The model with its frozen adapters merged, in the type that it is trained in."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    folder = settings["model"]
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    attention = settings["attention"]
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if attention is None:
        # The scores of these models are capped, which torch's fused attention cannot do.
        attention = "eager" if capped else "sdpa"
    elif capped and attention == "sdpa":
        raise Refused("`attention: sdpa` cannot cap scores, which this model does", "leave `attention` out")
    names = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}
    # What is trained is kept in 32 bits. A frozen base needs no more than it is computed in, but
    # sharded parameters must be of one type.
    narrow = settings["dtype"] == "bf16" and settings["method"] == "lora" and not is_sharded(accelerator)
    options = {"dtype": torch.bfloat16 if narrow else torch.float32}
    if settings["quantization"]:
        compute = torch.bfloat16 if settings["dtype"] == "bf16" else torch.float32
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
        options["device_map"] = {"": device or accelerator.device}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            attn_implementation=names[attention],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    except ImportError as error:
        raise Refused(f"the model cannot be loaded: {error}", environment=True) from error
    if settings["adapters"] and settings["quantization"]:
        raise Refused("the model is an adapter, which cannot be merged into a quantized base", "merge it first")
    for adapter in settings["adapters"]:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.config.use_cache = False
    return model


def put_adapter(settings, model, folder):
    """The model with the adapter that is trained."""
    from peft import PeftModel, prepare_model_for_kbit_training

    if settings["quantization"]:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def is_sharded(accelerator):
    """Whether each process holds a part of the parameters."""
    return accelerator.distributed_type.value == "FSDP"


def make_accelerator(settings):
    import torch
    from accelerate import Accelerator

    gpus = settings["gpus"]
    if gpus and not torch.cuda.is_available():
        raise Refused(
            f"`resources: {{ gpus: {gpus} }}` needs CUDA, which torch {torch.__version__} does not find here",
            "install a build of torch for this machine's driver, or leave `gpus` out to train on the CPU",
            environment=True,
        )
    torch.set_num_threads(settings["threads"])
    torch.use_deterministic_algorithms(True, warn_only=True)
    precision = "bf16" if settings["dtype"] == "bf16" else "no"
    accelerator = Accelerator(cpu=gpus == 0, mixed_precision=precision)
    if gpus > 1 and accelerator.num_processes != gpus:
        raise Refused(
            f"the launcher started {accelerator.num_processes} processes for {gpus} graphics cards",
            "`launcher` in the configuration must start one process for each card: `{processes}`",
            environment=True,
        )
    return accelerator


class Trainer:
    """A training under way."""

    def __init__(self, settings, report):
        import torch
        from safetensors.torch import load_file

        self.settings, self.report, self.stop = settings, report, Stop()
        tensors = load_file("rows.safetensors")
        self.rows, self.plan = Rows(tensors), Plan(tensors)
        self.watched = Rows(tensors, "evaluate_") if settings["evaluate"] else None
        self.accelerator = make_accelerator(settings)
        self.world = self.accelerator.num_processes
        self.rank = self.accelerator.process_index
        model = load_model(settings, self.accelerator)
        if settings["method"] == "lora":
            model = put_adapter(settings, model, settings["adapter"])
        if settings["gradient_checkpointing"]:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if settings["method"] == "lora":
                model.enable_input_require_grads()
        model.train()
        # The forward pass of the model itself says whether it can skip logits.
        inner = model.get_base_model() if settings["method"] == "lora" else model
        self.keeps = "logits_to_keep" in inspect.signature(inner.forward).parameters
        self.pad = getattr(inner.config, "pad_token_id", None) or 0
        self.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        optimizer = torch.optim.AdamW(
            self.groups(model), lr=0.0, betas=tuple(settings["betas"]), eps=settings["eps"]
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.step, self.updates, self.best = 0, 0, None
        self.evaluated = None
        self.saved, self.pause = time.monotonic(), settings["checkpoint_every"]

    def groups(self, model):
        """All of an adapter decays; of a whole model norms and biases do not."""
        whole = self.settings["method"] == "full"
        groups = {True: [], False: []}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups[not (whole and ("norm" in name or name.endswith(".bias")))].append(parameter)
        decay = self.settings["weight_decay"]
        return [{"params": groups[d], "weight_decay": decay if d else 0.0} for d in (True, False) if groups[d]]

    def named(self):
        """The tensors that are trained, by name."""
        model = self.accelerator.unwrap_model(self.model)
        return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]

    # -- the loss ---------------------------------------------------------------------------------

    def padded(self, rows, batch):
        """The rows side by side, padded on the right; no row becomes one without labels."""
        import torch

        taken = [rows.row(number) for number in batch]
        if not taken:
            ids, _ = rows.row(0)
            taken = [(ids[:2], torch.full((min(len(ids), 2),), IGNORED))]
        longest = max(len(ids) for ids, _ in taken)
        shape = (len(taken), longest)
        ids, labels = torch.full(shape, self.pad), torch.full(shape, IGNORED)
        mask = torch.zeros(shape, dtype=torch.long)
        for place, (row, wanted) in enumerate(taken):
            ids[place, :len(row)], labels[place, :len(row)], mask[place, :len(row)] = row, wanted, 1
        inputs = {"input_ids": ids}
        if not bool(mask.all()):
            inputs["attention_mask"] = mask
        return inputs, labels

    def packed(self, rows, batch):
        """The rows one behind the other; positions that begin anew keep them apart."""
        import torch

        taken = [rows.row(number) for number in batch]
        if len(taken) < 2:
            return self.padded(rows, batch)
        ids = torch.cat([ids for ids, _ in taken])[None]
        # The first token of a row is not predicted from the row before.
        labels = [torch.cat([torch.tensor([IGNORED]), labels[1:]]) for _, labels in taken]
        positions = torch.cat([torch.arange(len(ids)) for ids, _ in taken])[None]
        return {"input_ids": ids, "position_ids": positions}, torch.cat(labels)[None]

    def loss_sum(self, rows, batch):
        """The sum of -log p over the active tokens of the rows."""
        import torch

        inputs, labels = (self.packed if self.settings["packing"] else self.padded)(rows, batch)
        targets = labels[:, 1:]
        # Only positions that predict something need logits.
        places = (targets != IGNORED).any(0).nonzero()[:, 0]
        if len(places) == 0:
            places = torch.zeros(1, dtype=torch.long)
        forget_lengths(self.model)
        device = self.accelerator.device
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        places, targets = places.to(device), targets.to(device)[:, places.to(device)]
        if self.keeps:
            logits = self.model(**inputs, use_cache=False, logits_to_keep=places).logits
        else:
            logits = self.model(**inputs, use_cache=False).logits[:, places]
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.double().sum()

    def total(self, value):
        """The sum over all processes."""
        return float(self.accelerator.reduce(value.detach().reshape(1), "sum")[0])

    # -- steps ------------------------------------------------------------------------------------

    def one_step(self):
        import torch

        step, plan = self.step, self.plan
        active = self.rows.active(plan.rows(step))
        batches = plan.micro_batches(step, self.rank, self.world, self.settings["batch_size"])
        loss = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        norm = 0.0
        if active:
            for number, batch in enumerate(batches):
                last = number + 1 == len(batches)
                if self.world == 1 and not self.rows.active(batch):
                    continue
                context = contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)
                with context:
                    part = self.loss_sum(self.rows, batch)
                    # Gradients of several processes are averaged, so that each is worth `world`.
                    self.accelerator.backward(part * (self.world / active))
                loss += part.detach()
            clip = self.settings["clip"]
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            norm = self.accelerator.clip_grad_norm_(parameters, math.inf if clip is None else clip)
            norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        mean = self.total(loss) / max(active, 1)
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise Refused(f"the loss is not finite in step {step}; {SMALLER}")
        if active:
            for group in self.optimizer.param_groups:
                group["lr"] = plan.rates[step]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.updates += 1
        self.step += 1
        self.report("step", step=step, loss=mean, grad_norm=norm)

    def evaluate(self):
        """Measures the loss on the held-out rows where that is due, and remembers the best model."""
        import torch

        every = self.settings["evaluate"] and self.settings["evaluate"]["every"]
        due = every and self.step and (self.step % every == 0 or self.step == len(self.plan))
        if not due or self.evaluated == self.step:
            return
        rows, size = self.watched, self.settings["batch_size"]
        own = list(range(len(rows)))[self.rank::self.world]
        count = -(-(-(-len(rows) // self.world)) // size)
        loss = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        self.model.eval()
        with torch.no_grad():
            for number in range(count):
                loss += self.loss_sum(rows, own[number * size:(number + 1) * size])
        self.model.train()
        mean = self.total(loss) / max(rows.active(range(len(rows))), 1)
        if not math.isfinite(mean):
            raise Refused(f"the loss on `evaluate_on` is not finite after step {self.step - 1}; {SMALLER}")
        self.evaluated = self.step
        self.report("evaluate", step=self.step - 1, loss=mean)
        if self.settings["evaluate"]["patience"] is not None:
            self.remember(mean)

    def remember(self, loss):
        delta, best = self.settings["evaluate"]["min_delta"], self.best
        improved = best is None or loss < best["loss"] - delta
        stale = 0 if improved else best["stale"] + 1
        if best is None or loss < best["loss"]:
            best = {"step": self.step - 1, "loss": loss, "state": self.gathered()["p"]}
        self.best = {**best, "stale": stale}

    def is_enough(self):
        patience = self.settings["evaluate"] and self.settings["evaluate"]["patience"]
        return bool(patience and self.best and self.best["stale"] >= patience)

    def run(self):
        self.resume()
        self.report("start", step=self.step, trainable=self.trainable, **profile(self))
        while True:
            # Before the next step, not after the last: so an interrupted evaluation is made up for.
            self.evaluate()
            if self.step == len(self.plan) or self.is_enough():
                break
            self.one_step()
            if self.step in self.settings["keep"]:
                self.save(self.gathered()["p"], f"out/step_{self.step}")
                self.report("keep", step=self.step)
            if self.asks_to_stop():
                self.checkpoint()
                self.report("stopped", step=self.step)
                return
        state = self.best["state"] if self.best else self.gathered()["p"]
        # No further loss would tell.
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise Refused(f"the trained tensors are not finite after step {self.step - 1}; {SMALLER}")
        self.save(state, "out")
        self.report("end", steps=self.step, best_step=self.best and self.best["step"])

    def asks_to_stop(self):
        """Whether an end is asked for; writes a checkpoint where one is due. All processes agree."""
        import torch

        due = self.rank == 0 and time.monotonic() - self.saved >= self.pause
        asked = [float(self.stop.asked), float(due)]
        if self.world > 1:
            flags = torch.tensor(asked, device=self.accelerator.device)
            asked = self.accelerator.reduce(flags, "sum").tolist()
        if asked[0] == 0 and asked[1] > 0 and self.step < len(self.plan):
            self.checkpoint()
        return asked[0] > 0

    # -- state ------------------------------------------------------------------------------------

    def gathered(self, moments=False):
        """Trained tensors, and the optimizer's moments, on the CPU of the first process."""
        own = lambda tensor: tensor.detach().to("cpu", copy=True).contiguous()
        if is_sharded(self.accelerator):
            return self.gathered_shards(moments)
        found = {"p": {}, "m": {}, "v": {}}
        if self.rank == 0:
            for name, parameter in self.named():
                found["p"][name] = own(parameter)
                state = self.optimizer.state.get(parameter)
                if moments and state:
                    found["m"][name], found["v"][name] = own(state["exp_avg"]), own(state["exp_avg_sq"])
        return found

    def gathered_shards(self, moments):
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_model_state_dict,
            get_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        names = {name for name, _ in self.named()}
        whole = get_model_state_dict(self.model, options=options)
        found = {"p": {name: t for name, t in whole.items() if name in names}, "m": {}, "v": {}}
        if moments and self.updates:
            optimizer = get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=options)
            for name, state in optimizer["state"].items():
                found["m"][name], found["v"][name] = state["exp_avg"], state["exp_avg_sq"]
        return found

    def checkpoint(self):
        from safetensors.torch import save_file

        begin = time.monotonic()
        found = self.gathered(moments=True)
        if self.rank == 0:
            folder = Path(f"checkpoint-{self.step}")
            folder.mkdir(exist_ok=True)
            tensors = {f"{kind}/{name}": t for kind in "pmv" for name, t in found[kind].items()}
            best = self.best
            if best:
                tensors.update({f"b/{name}": t for name, t in best["state"].items()})
                best = {key: value for key, value in best.items() if key != "state"}
            save_file(tensors, folder / "state.safetensors")
            head = {"format": FORMAT, "step": self.step, "updates": self.updates, "best": best}
            head |= {"evaluated": self.evaluated, "profile": profile(self)}
            (folder / "state.json").write_text(json.dumps(head))
            self.report("checkpoint", step=self.step, folder=folder.name)
        self.saved = time.monotonic()
        self.pause = max(self.settings["checkpoint_every"], SHARE * (self.saved - begin))

    def resume(self):
        """Takes up the state of an earlier run, if it was made by the same versions and device."""
        from safetensors.torch import load_file

        if not self.settings["resume"]:
            return
        folder = Path(self.settings["resume"])
        head = json.loads((folder / "state.json").read_text())
        # Threads and processes may be others; what is computed is the same but for the last bits.
        same = all(head["profile"][name] == profile(self)[name] for name in ("versions", "device"))
        if head["format"] != FORMAT or not same:
            self.report("note", text="begins anew, for an earlier state belongs to other versions or devices")
            return
        tensors = load_file(folder / "state.safetensors")
        found = {kind: {} for kind in "pmvb"}
        for name, tensor in tensors.items():
            found[name[0]][name[2:]] = tensor
        self.step, self.updates, self.evaluated = head["step"], head["updates"], head["evaluated"]
        if head["best"]:
            self.best = {**head["best"], "state": found["b"]}
        if is_sharded(self.accelerator):
            return self.restore_shards(found)
        import torch

        with torch.no_grad():
            for name, parameter in self.named():
                parameter.copy_(found["p"][name])
                if name in found["m"]:
                    state = self.optimizer.state[parameter]
                    state["step"] = torch.tensor(float(self.updates))
                    for key, kind in (("exp_avg", "m"), ("exp_avg_sq", "v")):
                        state[key] = found[kind][name].to(parameter.device)

    def restore_shards(self, found):
        import torch
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            get_optimizer_state_dict,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(self.model, found["p"], options=options)
        if found["m"]:
            optimizer = self.optimizer.optimizer
            groups = get_optimizer_state_dict(self.model, optimizer)["param_groups"]
            step = torch.tensor(float(self.updates))
            state = {n: {"step": step, "exp_avg": found["m"][n], "exp_avg_sq": found["v"][n]} for n in found["m"]}
            set_optimizer_state_dict(self.model, optimizer, {"state": state, "param_groups": groups}, options=options)

    # -- results ----------------------------------------------------------------------------------

    def save(self, state, folder):
        """Writes the adapter, or the whole model, of trained tensors on the CPU."""
        if self.rank == 0:
            Path(folder).mkdir(parents=True, exist_ok=True)
            if self.settings["method"] == "full":
                self.save_whole(self.accelerator.unwrap_model(self.model), state, folder)
            elif self.settings["merge"]:
                self.save_merged(state, folder)
            else:
                self.save_adapter(state, folder)
        self.accelerator.wait_for_everyone()

    def save_adapter(self, state, folder):
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        model = self.accelerator.unwrap_model(self.model)
        tensors = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
        tensors = {name: tensor.float().contiguous() for name, tensor in sorted(tensors.items())}
        save_file(tensors, f"{folder}/adapter_model.safetensors", metadata={"format": "pt"})

    def save_merged(self, state, folder):
        """Merges in a second copy of the model: the first may be sharded, and training may go on."""
        model = put_adapter(self.settings, load_model(self.settings, self.accelerator, "cpu"), self.settings["adapter"])
        model.load_state_dict(state, strict=False)
        model = model.merge_and_unload()
        self.save_whole(model, model.state_dict(), folder)

    def save_whole(self, model, state, folder):
        import torch

        dtype = torch.bfloat16 if self.settings["dtype"] == "bf16" else torch.float32
        state = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}
        model.save_pretrained(folder, state_dict=state)


def forget_lengths(model):
    """Frequencies that follow the length of the input follow that of the batch at hand alone.

    transformers keeps those of the longest batch so far, with which a resumed training would differ.
    """
    for module in model.modules():
        if hasattr(module, "original_inv_freq") and hasattr(module, "original_max_seq_len"):
            module.max_seq_len_cached = module.original_max_seq_len
            module.inv_freq = module.original_inv_freq


def profile(trainer):
    """What can move the last bits."""
    import torch

    accelerator, settings = trainer.accelerator, trainer.settings
    names = PACKAGES + (["bitsandbytes"] if settings["quantization"] else [])
    versions = {name: str(__import__(name).__version__) for name in names}
    versions["python"] = platform.python_version()
    device = platform.machine()
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    kind = accelerator.distributed_type.value
    return {
        "versions": versions,
        "device": device,
        "world": accelerator.num_processes,
        "sharded": kind == "FSDP",
        "threads": torch.get_num_threads(),
    }


def main():
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    report = Report("report.jsonl")
    try:
        if settings["format"] != FORMAT:
            raise Refused(f"settings of format {settings['format']} are not known")
        import_all(settings)
        import torch

        try:
            Trainer(settings, report).run()
        except torch.cuda.OutOfMemoryError as error:
            hint = "take a smaller `batch_size` and more `accumulate`, `gradient_checkpointing: true` or `quantization: nf4`"
            raise Refused(f"out of memory on the graphics card: {str(error).splitlines()[0]}", hint) from error
    except Refused as refused:
        report("error", message=str(refused), hint=refused.hint, environment=refused.environment)
        print(f"trainer: {refused}", file=sys.stderr)
        return 1
    finally:
        import_distributed = sys.modules.get("torch.distributed")
        if import_distributed and import_distributed.is_available() and import_distributed.is_initialized():
            import_distributed.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
