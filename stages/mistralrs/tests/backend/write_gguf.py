"""Writes a model folder as a GGUF file with PyPI's `gguf`: write_gguf.py FOLDER OUT ARCHITECTURE PATTERN."""

import json
import sys

import gguf
import numpy
from safetensors.numpy import load_file

folder, out, architecture, pattern = sys.argv[1:]
config = json.load(open(f"{folder}/config.json"))
tokenizer = json.load(open(f"{folder}/tokenizer.json"))
writer = gguf.GGUFWriter(out, architecture)
heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
head = config.get("head_dim") or config["hidden_size"] // heads
writer.add_block_count(config["num_hidden_layers"])
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_key_length(head)
writer.add_value_length(head)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_dimension_count(head)
writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])

tokens = {id: token for token, id in tokenizer["model"]["vocab"].items()}
kinds = {id: gguf.TokenType.NORMAL for id in tokens}
for added in tokenizer["added_tokens"]:
    tokens[added["id"]] = added["content"]
    special = added["special"]
    kinds[added["id"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
writer.add_tokenizer_model("gpt2")
if pattern:
    writer.add_tokenizer_pre(pattern)
writer.add_token_list([tokens[id] for id in range(len(tokens))])
writer.add_token_types([kinds[id] for id in range(len(tokens))])
writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
writer.add_bos_token_id(config["bos_token_id"])
writer.add_eos_token_id(config["eos_token_id"])
writer.add_add_bos_token(True)

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
for name, values in load_file(f"{folder}/model.safetensors").items():
    module, kind = name.removeprefix("model.").rsplit(".", 1)
    if module in WHOLE:
        target = WHOLE[module]
    else:
        _, layer, part = module.split(".", 2)
        target = f"blk.{layer}.{NAMES[part]}"
        # llama.cpp pairs neighbours where transformers pairs halves.
        if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = values.reshape(-1, 2, head // 2, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
    writer.add_tensor(f"{target}.{kind}", numpy.ascontiguousarray(values, dtype=numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
