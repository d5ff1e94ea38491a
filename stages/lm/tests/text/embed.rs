//! Embeddings: a tiny BERT against plain loops in f64, decoders, and what a vector may depend on.

use std::collections::BTreeMap;
use std::path::Path;

use refrain_lm::embed::Embedder;
use refrain_lm::forward::Packed;
use refrain_lm::model::{LanguageModel, ModelPath};
use refrain_lm::random::Stream;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

use crate::parity_folders;

const WORDS: [&str; 16] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "##s", "##ing",
    "dog", "run", ".", "blue",
];
const HIDDEN: usize = 24;
const HEADS: usize = 3;
const INNER: usize = 40;
const LAYERS: usize = 2;
const POSITIONS: usize = 12;
const TEXTS: [&str; 7] = [
    "the cat sat on a mat .",
    "dogs running",
    "",
    "The DOG",
    "a",
    "zebra on the mats",
    "a a a a a a a a a a a a a a a a a a a a",
];

/// The tensors of a tiny BERT by name, with their shapes.
fn tensors() -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let mut all = BTreeMap::new();
    let mut tensor = |name: String, shape: Vec<usize>, mean: f64| {
        let stream = Stream::named(3, &name, &[]);
        let size: usize = shape.iter().product();
        let values = (0..size as u64).map(|i| (mean + 0.3 * stream.normal(i)) as f32).collect();
        all.insert(name, (shape, values));
    };
    for (name, rows) in [
        ("word_embeddings", WORDS.len()),
        ("position_embeddings", POSITIONS),
        ("token_type_embeddings", 2),
    ] {
        tensor(format!("embeddings.{name}.weight"), vec![rows, HIDDEN], 0.0);
    }
    let mut norms = vec!["embeddings".to_owned()];
    for layer in 0..LAYERS {
        let at = format!("encoder.layer.{layer}");
        norms.extend([format!("{at}.attention.output"), format!("{at}.output")]);
        for (name, inputs, outputs) in [
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", HIDDEN, INNER),
            ("output.dense", INNER, HIDDEN),
        ] {
            tensor(format!("{at}.{name}.weight"), vec![outputs, inputs], 0.0);
            tensor(format!("{at}.{name}.bias"), vec![outputs], 0.0);
        }
    }
    for norm in norms {
        tensor(format!("{norm}.LayerNorm.weight"), vec![HIDDEN], 1.0);
        tensor(format!("{norm}.LayerNorm.bias"), vec![HIDDEN], 0.0);
    }
    all
}

/// Writes the model in the layout of sentence-transformers; `prefix` goes before each tensor's
/// name.
fn write(folder: &Path, pooling: &str, normalize: bool, prefix: &str) {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors()
        .into_iter()
        .map(|(name, (shape, values))| {
            (
                format!("{prefix}{name}"),
                shape,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, data)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    std::fs::write(folder.join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    let config = json!({
        "model_type": "bert", "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "intermediate_size": INNER, "vocab_size": WORDS.len(), "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    });
    let vocab: BTreeMap<&str, usize> =
        WORDS.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let special = |id: usize| {
        json!({ "id": id, "content": WORDS[id], "special": true, "single_word": false,
                                      "lstrip": false, "rstrip": false, "normalized": false })
    };
    let piece = |name: &str| json!({ "SpecialToken": { "id": name, "type_id": 0 } });
    let around = |id: usize| json!({ "id": WORDS[id], "ids": [id], "tokens": [WORDS[id]] });
    let tokenizer = json!({
        "version": "1.0",
        // As real files have it; both must be ignored.
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0 },
        "padding": { "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "[PAD]" },
        "added_tokens": [special(0), special(1), special(2), special(3)],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "TemplateProcessing",
            "single": [piece("[CLS]"), { "Sequence": { "id": "A", "type_id": 0 } }, piece("[SEP]")],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": around(2), "[SEP]": around(3) } },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": vocab },
    });
    let mut modules = vec![
        json!({ "idx": 0, "path": "", "type": "sentence_transformers.models.Transformer" }),
        json!({ "idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling" }),
    ];
    if normalize {
        modules.push(
            json!({ "idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize" }),
        );
    }
    let mut mode = json!({ "word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": false,
                           "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false });
    mode[format!("pooling_mode_{pooling}")] = Value::Bool(true);
    std::fs::create_dir(folder.join("1_Pooling")).unwrap();
    for (name, value) in [
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("modules.json", Value::Array(modules)),
        ("1_Pooling/config.json", mode),
        ("sentence_bert_config.json", json!({ "max_seq_length": 10, "do_lower_case": false })),
    ] {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    }
}

fn load(folder: &Path) -> Embedder {
    Embedder::load(&ModelPath { folder: folder.into(), adapters: Vec::new() }).unwrap()
}

/// The definition of BERT, one token after another, in f64.
struct Plain(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl Plain {
    fn row(&self, name: &str, row: usize) -> Vec<f64> {
        self.0[name].1[row * HIDDEN..][..HIDDEN].iter().map(|v| f64::from(*v)).collect()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) =
            (&self.0[&format!("{name}.weight")].1, &self.0[&format!("{name}.bias")].1);
        let product = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        weight.chunks(x.len()).zip(bias).map(|(row, b)| product(row) + f64::from(*b)).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = (
            self.row(&format!("{name}.LayerNorm.weight"), 0),
            self.row(&format!("{name}.LayerNorm.bias"), 0),
        );
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        (0..x.len())
            .map(|i| (x[i] - mean) / (variance + 1e-12).sqrt() * weight[i] + bias[i])
            .collect()
    }

    fn attend(&self, at: &str, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let project = |name: &str| -> Vec<Vec<f64>> {
            x.iter().map(|x| self.linear(&format!("{at}.attention.self.{name}"), x)).collect()
        };
        let (q, k, v) = (project("query"), project("key"), project("value"));
        let dim = HIDDEN / HEADS;
        let mut out = vec![vec![0.0; HIDDEN]; x.len()];
        for (i, out) in out.iter_mut().enumerate() {
            for head in 0..HEADS {
                let span = head * dim..(head + 1) * dim;
                let score = |j: usize| -> f64 {
                    span.clone().map(|c| q[i][c] * k[j][c]).sum::<f64>() / (dim as f64).sqrt()
                };
                let weights: Vec<f64> = (0..x.len()).map(|j| score(j).exp()).collect();
                let total: f64 = weights.iter().sum();
                for c in span.clone() {
                    out[c] = (0..x.len()).map(|j| weights[j] / total * v[j][c]).sum();
                }
            }
        }
        out
    }

    fn states(&self, ids: &[u32]) -> Vec<Vec<f64>> {
        let add =
            |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        let embed = |(place, id): (usize, &u32)| {
            let word = self.row("embeddings.word_embeddings.weight", *id as usize);
            let place = self.row("embeddings.position_embeddings.weight", place);
            let kind = self.row("embeddings.token_type_embeddings.weight", 0);
            self.norm("embeddings", &add(&add(&word, &place), &kind))
        };
        let mut x: Vec<Vec<f64>> = ids.iter().enumerate().map(embed).collect();
        for layer in 0..LAYERS {
            let at = format!("encoder.layer.{layer}");
            let attended = self.attend(&at, &x);
            for (x, attended) in x.iter_mut().zip(attended) {
                let o = self.linear(&format!("{at}.attention.output.dense"), &attended);
                let middle = self.norm(&format!("{at}.attention.output"), &add(x, &o));
                let mut inner = self.linear(&format!("{at}.intermediate.dense"), &middle);
                inner.iter_mut().for_each(|v| *v = 0.5 * *v * (1.0 + libm::erf(*v / 2f64.sqrt())));
                let down = self.linear(&format!("{at}.output.dense"), &inner);
                *x = self.norm(&format!("{at}.output"), &add(&middle, &down));
            }
        }
        x
    }
}

fn mean(states: &[Vec<f64>]) -> Vec<f64> {
    (0..HIDDEN).map(|c| states.iter().map(|s| s[c]).sum::<f64>() / states.len() as f64).collect()
}

fn unit(vector: Vec<f64>) -> Vec<f64> {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
    vector.into_iter().map(|v| v / length).collect()
}

#[test]
fn a_tiny_bert_equals_plain_loops() {
    let plain = Plain(tensors());
    for (pooling, normalize, prefix) in [
        ("mean_tokens", true, ""),
        ("mean_tokens", false, "bert."),
        ("cls_token", true, ""),
        ("cls_token", false, ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), pooling, normalize, prefix);
        let embedder = load(folder.path());
        let vectors = embedder.embed(&TEXTS, None).unwrap();
        assert_eq!((vectors.len(), embedder.width()), (TEXTS.len() * HIDDEN, HIDDEN));
        for (text, got) in TEXTS.iter().zip(vectors.chunks(HIDDEN)) {
            let states = plain.states(&embedder.tokens(text).unwrap());
            let pooled = if pooling == "mean_tokens" { mean(&states) } else { states[0].clone() };
            let expected = if normalize { unit(pooled) } else { pooled };
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    (f64::from(*got) - expected).abs() < 2e-6,
                    "{pooling} {text}: {got} {expected}"
                );
            }
        }
    }
}

#[test]
fn tokens_are_those_of_the_network() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "mean_tokens", true, "");
    let embedder = load(folder.path());
    assert_eq!(embedder.tokens("The cats").unwrap(), [2, 4, 5, 10, 3]);
    assert_eq!(embedder.tokens("").unwrap(), [2, 3]);
    // Cut at `max_seq_length`, [CLS] and [SEP] kept.
    assert_eq!(embedder.tokens(TEXTS[6]).unwrap(), [2, 8, 8, 8, 8, 8, 8, 8, 8, 3]);
}

#[test]
fn a_vector_does_not_see_its_neighbours() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "mean_tokens", true, "");
    let mut folders = vec![folder.path().to_owned()];
    folders.extend(parity_folders().into_iter().map(|folder| folder.join("model")));
    for folder in folders {
        let embedder = load(&folder);
        let texts: Vec<&str> =
            TEXTS.iter().copied().filter(|text| !text.is_empty()).cycle().take(45).collect();
        let bits = |vectors: Vec<f32>| vectors.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        let all = bits(embedder.embed(&texts, None).unwrap());
        for (threads, batch) in [(1, 1), (2, 7), (1, 100)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| embedder.embed(&texts, Some(batch)).unwrap());
            assert_eq!(all, bits(again), "{}", folder.display());
        }
        assert!(embedder.embed(&[], None).unwrap().is_empty());
    }
}

#[test]
fn a_decoder_gives_the_mean_of_its_last_states() {
    for folder in parity_folders() {
        let path = ModelPath { folder: folder.join("model"), adapters: Vec::new() };
        let (model, embedder) =
            (LanguageModel::load(&path).unwrap(), Embedder::load(&path).unwrap());
        let ids = embedder.tokens("What is two and two?").unwrap();
        let width = model.config.hidden;
        let hidden = model.forward(&Packed::new([ids.as_slice()]));
        let sums: Vec<f64> = (0..width)
            .map(|c| hidden.iter().skip(c).step_by(width).map(|v| f64::from(*v)).sum())
            .collect();
        let vector = embedder.embed(&["What is two and two?"], None).unwrap();
        for (got, expected) in vector.iter().zip(unit(sums)) {
            assert!((f64::from(*got) - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn what_is_not_native_is_refused() {
    let refusal = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "mean_tokens", true, "");
        change(folder.path());
        let path = ModelPath { folder: folder.path().into(), adapters: Vec::new() };
        Embedder::load(&path).err().unwrap().to_string()
    };
    let rewrite = |name: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(folder.join(name), text.replacen(from, to, 1)).unwrap();
        }
    };
    let cases = [
        (rewrite("modules.json", "models.Normalize", "models.Dense"), "the module `Dense`"),
        (rewrite("modules.json", "1_Pooling", "../1_Pooling"), "a pooling at `../1_Pooling`"),
        (
            rewrite("1_Pooling/config.json", "max_tokens\":false", "max_tokens\":true"),
            "the pooling `m",
        ),
        (rewrite("config.json", "\"gelu\"", "\"relu\""), "`relu`"),
        (
            rewrite("config.json", "\"num_attention_heads\":3", "\"num_attention_heads\":5"),
            "not a multiple of 5",
        ),
        (rewrite("config.json", "\"vocab_size\":16", "\"vocab_size\":17"), "word_embeddings"),
    ];
    for (change, expected) in cases {
        let message = refusal(&change);
        assert!(message.contains(expected), "{message}");
    }
}
