//! Writes a small Llama as a GGUF file, version 3, by the format's description: weights in f32,
//! byte tokens within.

use refrain_lm::model::LanguageModel;

/// A value of the header.
enum Value {
    U32(u32),
    F32(f32),
    Text(&'static str),
    Texts(Vec<String>),
    Ints(Vec<i32>),
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_array(out: &mut Vec<u8>, item: u32, len: usize) {
    out.extend(9u32.to_le_bytes());
    out.extend(item.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

impl Value {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Value::U32(value) => {
                out.extend(4u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Value::F32(value) => {
                out.extend(6u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Value::Text(text) => {
                out.extend(8u32.to_le_bytes());
                put_text(out, text);
            }
            Value::Texts(texts) => {
                put_array(out, 8, texts.len());
                texts.iter().for_each(|text| put_text(out, text));
            }
            Value::Ints(values) => {
                put_array(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

/// The tokens: GPT-2's 256 bytes in the order of their characters, then `<|bos|>` and `<|eos|>`.
pub fn tokens() -> Vec<String> {
    let plain = |byte: u32| {
        (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte)
    };
    let printable = (0..256).filter(|byte| plain(*byte));
    let shifted = (0..256 - printable.clone().count() as u32).map(|i| 256 + i);
    let characters = printable.chain(shifted).map(|code| char::from_u32(code).unwrap().to_string());
    characters.chain(["<|bos|>".to_owned(), "<|eos|>".to_owned()]).collect()
}

/// The ids of the two special tokens.
pub const BOS: u32 = 256;
pub const EOS: u32 = 257;

/// The rows of a projection of queries or keys in GGUF's order, in which the two halves of a head
/// are interleaved.
fn interleaved(values: &[f32], width: usize, head_dim: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_dim * width) {
        for row in 0..head_dim / 2 {
            out.extend(&head[row * width..][..width]);
            out.extend(&head[(row + head_dim / 2) * width..][..width]);
        }
    }
    out
}

/// The name of a tensor in GGUF.
fn name_of(name: &str) -> String {
    let whole = match name {
        "model.embed_tokens.weight" => "token_embd.weight",
        "model.norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => "",
    };
    if !whole.is_empty() {
        return whole.to_owned();
    }
    let (layer, rest) = name.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
    let part = match rest.strip_suffix(".weight").unwrap() {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => panic!("{other}"),
    };
    format!("blk.{layer}.{part}.weight")
}

fn header(model: &LanguageModel) -> Vec<(&'static str, Value)> {
    let config = &model.config;
    let size = |value: usize| Value::U32(value as u32);
    let mut kinds = vec![1; 256];
    kinds.extend([3, 3]);
    vec![
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", size(config.layers)),
        ("llama.context_length", size(config.max_positions)),
        ("llama.embedding_length", size(config.hidden)),
        ("llama.feed_forward_length", size(config.intermediate)),
        ("llama.attention.head_count", size(config.heads)),
        ("llama.attention.head_count_kv", size(config.kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps as f32)),
        ("llama.rope.dimension_count", size(config.head_dim)),
        ("llama.rope.freq_base", Value::F32(config.rope.theta as f32)),
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("llama-bpe")),
        ("tokenizer.ggml.tokens", Value::Texts(tokens())),
        ("tokenizer.ggml.token_type", Value::Ints(kinds)),
        ("tokenizer.ggml.merges", Value::Texts(Vec::new())),
        ("tokenizer.ggml.bos_token_id", Value::U32(BOS)),
        ("tokenizer.ggml.eos_token_id", Value::U32(EOS)),
    ]
}

/// The bytes of a Llama as a GGUF file.
pub fn gguf(model: &LanguageModel) -> Vec<u8> {
    let header = header(model);
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((model.tensors.len() as u64).to_le_bytes());
    out.extend((header.len() as u64).to_le_bytes());
    for (key, value) in header {
        put_text(&mut out, key);
        value.put(&mut out);
    }
    let mut data: Vec<u8> = Vec::new();
    for tensor in &model.tensors {
        let name = name_of(&tensor.name);
        let turned = name.contains("attn_q") || name.contains("attn_k");
        let values = match turned {
            true => interleaved(&tensor.to_rows(), tensor.shape[1], model.config.head_dim),
            false => tensor.to_rows(),
        };
        put_text(&mut out, &name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|size| out.extend((*size as u64).to_le_bytes()));
        out.extend(0u32.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
