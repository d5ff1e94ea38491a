"""Writes a folder with random bf16 weights in the shape of a large model, as Hugging Face writes one: shards with an index.

    python3 weights.py --shape mistral-7b --tokenizer W/llama-30m --out /data/mistral-7b            # 14.5 GB
    python3 weights.py --shape gemma2-2b --layers 2 --tokenizer W/llama-30m --out /data/gemma2-2-layers

Needs numpy, and less than 1 GB of memory. The bytes are the same every time: each value is drawn by a counter, from
N(0, 0.02) at 65,536 equidistant quantiles; norms are ones, or zeros for Gemma, which adds one. The tokenizer is copied from a
folder whose vocabulary may be smaller than the shape's: the rest of the embedding is then never looked up.
"""

import argparse
import json
import os
import shutil
import statistics

import numpy

SHAPES = {
    "mistral-7b": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    },
    "gemma2-2b": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 256000,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
}
COPIED = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"]
CHUNK = 1 << 22  # values drawn at a time, each chunk by a key of its own


def bf16(values):
    """The upper halves of float32 values, rounded to the nearest, ties to even."""
    bits = numpy.asarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def quantiles(deviation):
    """The bf16 values at 65,536 equidistant quantiles of a normal distribution."""
    curve = statistics.NormalDist(0.0, deviation)
    return bf16([curve.inv_cdf((k + 0.5) / 65536) for k in range(65536)])


def tensors(config):
    """The names and shapes of all tensors, in the order of the layers."""
    hidden, inter, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inter, hidden),
        "mlp.up_proj": (inter, hidden),
        "mlp.down_proj": (hidden, inter),
    }
    norms = ["input_layernorm", "post_attention_layernorm"]
    if config["model_type"] == "gemma2":
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in [*matrices.items(), *((norm, (hidden,)) for norm in norms)]:
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def size(shape):
    """Bytes of a tensor."""
    return 2 * int(numpy.prod(shape))


def shards(config, limit):
    """The tensors in groups of at most `limit` bytes each; a tensor keeps its number, from which it is drawn."""
    groups, room = [[]], limit
    for number, (name, shape) in enumerate(tensors(config)):
        if size(shape) > room and groups[-1]:
            groups.append([])
            room = limit
        groups[-1].append((number, name, shape))
        room -= size(shape)
    return groups


def chunks(number, shape, table, constant, seed):
    """The values of a tensor, chunk by chunk: of a matrix random ones, of a vector the constant."""
    if len(shape) == 1:
        yield numpy.repeat(bf16([constant]), shape[0])
        return
    count = size(shape) // 2
    for begin in range(0, count, CHUNK):
        values = min(CHUNK, count - begin)
        draws = numpy.random.Philox(key=[(seed << 32) + number, begin // CHUNK]).random_raw(-(-values // 4))
        yield table[draws.astype("<u8").view("<u2")[:values]]


def write_shard(path, group, table, constant, seed):
    """Writes a safetensors file: the length of the header, the header, and the tensors one after another."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for _, name, shape in group:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size(shape)]}
        at += size(shape)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, _, shape in group:
            for values in chunks(number, shape, table, constant, seed):
                file.write(values.tobytes())


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def special(folder):
    """The ids of the begin, end and padding tokens that belong to the tokenizer."""
    path = os.path.join(folder, "config.json")
    names = ["bos_token_id", "eos_token_id", "pad_token_id"]
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        config = json.load(file)
    return {name: config[name] for name in names if config.get(name) is not None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True, choices=SHAPES)
    parser.add_argument("--layers", type=int, help="in place of all of the shape's")
    parser.add_argument("--tokenizer", required=True, help="folder whose tokenizer is copied")
    parser.add_argument("--out", required=True)
    parser.add_argument("--shard-gb", type=float, default=5.0, help="limit of a file, in 10^9 bytes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = {**SHAPES[options.shape], **special(options.tokenizer), "dtype": "bfloat16"}
    config["num_hidden_layers"] = options.layers or config["num_hidden_layers"]
    config["initializer_range"] = 0.02
    os.makedirs(options.out, exist_ok=True)
    for name in COPIED:
        path = os.path.join(options.tokenizer, name)
        if os.path.exists(path):
            shutil.copyfile(path, os.path.join(options.out, name))
    table, constant = quantiles(0.02), 0.0 if config["model_type"] == "gemma2" else 1.0
    groups, places, total = shards(config, options.shard_gb * 1e9), {}, 0
    for at, group in enumerate(groups):
        name = f"model-{at + 1:05}-of-{len(groups):05}.safetensors"
        write_shard(os.path.join(options.out, name), group, table, constant, options.seed)
        places.update({tensor: name for _, tensor, _ in group})
        total += sum(size(shape) for _, _, shape in group)
    write_json(options.out, "config.json", config)
    index = {"metadata": {"total_parameters": total // 2, "total_size": total}, "weight_map": places}
    write_json(options.out, "model.safetensors.index.json", index)
    print(json.dumps({"folder": options.out, "files": len(groups), "bytes": total, "parameters": total // 2}))


if __name__ == "__main__":
    main()
