//! The parameters of `finetune`: their table, and the values that a run is given.

use serde::Deserialize;
use serde_json::{Map, Value};

use refrain_engine::kind::{ArtifactKind, Param, Type};
use refrain_lm::train;

use crate::prompts::{CHAT_PARAM, Chat, PROMPT, SYSTEM};

const FROM_ZERO: Type = Type::Float { min: 0.0, max: f64::INFINITY, open: false };
const ABOVE_ZERO: Type = Type::Float { min: 0.0, max: f64::INFINITY, open: true };
const COUNT: Type = Type::Int { min: 1, max: i32::MAX as i64 };
const MODEL: Type = Type::Reference(Some(ArtifactKind::Model));

/// The linear layers that an adapter can be put on.
const TARGETS: &[&str] =
    &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The table of all parameters.
pub(super) static PARAMS: &[Param] = &[
    Param::optional("model", MODEL, "The model that is trained; or else `from`"),
    Param::optional(
        "from",
        Type::Record(FROM),
        "A new model with random weights, and a tokenizer trained on the data",
    ),
    Param::required(
        "data",
        Type::Reference(Some(ArtifactKind::Table)),
        "The table with the rows to train on",
    ),
    Param::optional("lora", Type::Record(LORA), "Trains a low-rank adapter; or else `full: true`"),
    Param::default("full", Type::Bool, "false", "Whether all weights are trained"),
    Param::optional(
        "epochs",
        COUNT,
        "How often all rows are gone through; 1 where neither this nor `steps` is given",
    ),
    Param::optional("steps", COUNT, "How many steps are made"),
    Param::default("batch_size", COUNT, "8", "Rows that are computed together"),
    Param::default("accumulate", COUNT, "1", "Batches whose gradients make one step"),
    Param::default(
        "order",
        Type::Choice(&["shuffled", "length", "given"]),
        "\"shuffled\"",
        "The order of the rows: a new random one each epoch, the longest first, or as given",
    ),
    Param::default("learning_rate", ABOVE_ZERO, "2e-4", "The highest learning rate"),
    Param::default(
        "schedule",
        Type::Choice(&["cosine", "linear", "constant"]),
        "\"cosine\"",
        "How the learning rate falls after the warm-up",
    ),
    Param::default(
        "warmup",
        Type::OneOf(&[
            Type::Int { min: 0, max: i32::MAX as i64 },
            Type::Float { min: 0.0, max: 1.0, open: false },
        ]),
        "0",
        "Steps, or a share of them below 1, over which the learning rate rises from zero",
    ),
    Param::default(
        "betas",
        Type::List(&BETA),
        "[0.9, 0.999]",
        "Decay rates of AdamW's two moments",
    ),
    Param::default("eps", ABOVE_ZERO, "1e-8", "What AdamW adds to the root of the second moment"),
    Param::default("weight_decay", FROM_ZERO, "0.0", "AdamW's decoupled weight decay"),
    Param::default("clip", FROM_ZERO, "1.0", "The largest norm of the gradient; 0 does not clip"),
    Param::default(
        "seed",
        Type::Int { min: 0, max: i64::MAX },
        "0",
        "The seed of initial weights, order and dropout",
    ),
    Param::optional(
        "kl",
        Type::Record(KL),
        "Keeps the model near the one that it was before: adds the k3 estimate of the divergence on the trained tokens to the loss",
    ),
    Param::optional(
        "evaluate_on",
        Type::Reference(Some(ArtifactKind::Table)),
        "A table, made like `data`, on whose trained tokens the loss is measured meanwhile",
    ),
    Param::optional(
        "evaluate_every",
        COUNT,
        "Steps between two measurements; at the end of each epoch where not given",
    ),
    Param::optional(
        "early_stopping",
        Type::Record(EARLY_STOPPING),
        "Ends when the loss on `evaluate_on` falls no more; the result is the model where it was lowest",
    ),
    PROMPT,
    SYSTEM,
    CHAT_PARAM,
    Param::optional(
        "max_tokens",
        Type::Int { min: 2, max: i32::MAX as i64 },
        "A longer row is cut to so many tokens; without it a row longer than the model's context is an error",
    ),
    Param::default(
        "merge",
        Type::Bool,
        "false",
        "Whether the result is a whole model in place of an adapter",
    ),
    Param {
        semantic: false,
        ..Param::default(
            "gradient_checkpointing",
            Type::OneOf(&[Type::Bool, Type::Choice(&["auto"])]),
            "\"auto\"",
            "Whether activations are computed again in place of being kept: slower, in less memory, the same bits",
        )
    },
    Param {
        semantic: false,
        ..Param::default(
            "checkpoint_every",
            // A day: more than that is never.
            Type::Float { min: 0.0, max: 86_400.0, open: false },
            "30.0",
            "Seconds between two writes of the state from which an interrupted training goes on",
        )
    },
];

static KL: &[Param] =
    &[Param::required("weight", FROM_ZERO, "What the divergence is multiplied with")];

static EARLY_STOPPING: &[Param] = &[
    Param::required(
        "patience",
        COUNT,
        "Measurements without improvement after which training ends",
    ),
    Param::default(
        "min_delta",
        FROM_ZERO,
        "0.0",
        "By how much the loss must fall to count as improvement",
    ),
];

const BETA: Type = Type::Float { min: 0.0, max: 0.999_999_9, open: false };

static LORA: &[Param] = &[
    Param::optional("rank", Type::Int { min: 1, max: 65_536 }, "The rank of the two thin matrices"),
    Param::optional(
        "alpha",
        ABOVE_ZERO,
        "Their product is multiplied by alpha / rank; twice the rank where not given",
    ),
    Param::default(
        "dropout",
        Type::Float { min: 0.0, max: 0.99, open: false },
        "0.0",
        "The share of inputs dropped",
    ),
    Param::optional(
        "targets",
        Type::List(&Type::Choice(TARGETS)),
        "The adapted linear layers; all where not given",
    ),
    Param::optional("dora", Type::Bool, "Whether the norm of each output is trained too (DoRA)"),
    Param::optional(
        "rslora",
        Type::Bool,
        "Whether the product is multiplied by alpha / sqrt(rank) (rsLoRA)",
    ),
    Param::optional(
        "from",
        MODEL,
        "An adapter of the same model that is trained further, with its own settings",
    ),
];

static FROM: &[Param] = &[
    Param::required(
        "config",
        Type::Record(CONFIG),
        "The model's shape, in the words of `config.json`",
    ),
    Param::required("tokenizer", Type::Record(TOKENIZER), "The byte-level BPE tokenizer"),
];

static CONFIG: &[Param] = &[
    Param::default(
        "model_type",
        Type::Choice(&["llama", "mistral", "qwen2"]),
        "\"llama\"",
        "The architecture",
    ),
    Param::required("hidden_size", COUNT, "Size of the hidden state"),
    Param::required("intermediate_size", COUNT, "Size of the feed-forward layers"),
    Param::required("num_hidden_layers", COUNT, "Number of layers"),
    Param::required("num_attention_heads", COUNT, "Query heads"),
    Param::optional(
        "num_key_value_heads",
        COUNT,
        "Key and value heads; as many as query heads where not given",
    ),
    Param::optional(
        "head_dim",
        COUNT,
        "Size of a head; `hidden_size` / `num_attention_heads` where not given",
    ),
    Param::default("max_position_embeddings", COUNT, "2048", "The longest row, in tokens"),
    Param::optional("sliding_window", COUNT, "Keys that a query of `mistral` sees"),
    Param::default("rope_theta", ABOVE_ZERO, "10000.0", "Base of the rotary frequencies"),
    Param::default("rms_norm_eps", ABOVE_ZERO, "1e-6", "Epsilon of the norms"),
    Param::default(
        "tie_word_embeddings",
        Type::Bool,
        "false",
        "Whether the output head is the embedding",
    ),
    Param::default(
        "initializer_range",
        ABOVE_ZERO,
        "0.02",
        "Standard deviation of the initial matrices",
    ),
];

static TOKENIZER: &[Param] = &[
    Param::required(
        "vocab_size",
        Type::Int { min: 1, max: 1 << 24 },
        "Most tokens, 256 bytes and special ones included",
    ),
    Param::default(
        "special_tokens",
        Type::List(&Type::Text),
        "[]",
        "Special tokens beside the usual ones",
    ),
    Param::optional("chat_template", Type::Text, "The chat template; a plain one where not given"),
];

/// The values.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Params {
    pub from: Option<From>,
    pub lora: Option<Lora>,
    #[serde(rename = "full")]
    _full: bool,
    pub epochs: Option<u64>,
    pub steps: Option<u64>,
    pub batch_size: usize,
    pub accumulate: usize,
    pub order: Order,
    pub learning_rate: f64,
    pub schedule: Schedule,
    pub warmup: Warmup,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub clip: f64,
    pub seed: u64,
    pub kl: Option<Kl>,
    pub evaluate_every: Option<u64>,
    pub early_stopping: Option<EarlyStopping>,
    pub prompt: Option<String>,
    pub system: Option<String>,
    pub chat: Chat,
    pub max_tokens: Option<usize>,
    pub merge: bool,
    pub gradient_checkpointing: Recompute,
    pub checkpoint_every: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kl {
    pub weight: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EarlyStopping {
    pub patience: u64,
    pub min_delta: f64,
}

impl std::convert::From<EarlyStopping> for train::EarlyStopping {
    fn from(EarlyStopping { patience, min_delta }: EarlyStopping) -> train::EarlyStopping {
        train::EarlyStopping { patience, min_delta }
    }
}

/// Whether activations are computed again.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum Recompute {
    Given(bool),
    Word(Auto),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Auto {
    Auto,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// The given fields of `config.json`.
    pub config: Map<String, Value>,
    pub tokenizer: TokenizerParams,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenizerParams {
    pub vocab_size: usize,
    pub special_tokens: Vec<String>,
    pub chat_template: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lora {
    pub rank: Option<usize>,
    pub alpha: Option<f64>,
    pub dropout: f64,
    #[serde(default)]
    pub targets: Vec<String>,
    #[serde(default)]
    pub dora: bool,
    #[serde(default)]
    pub rslora: bool,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(super) enum Warmup {
    Steps(u64),
    Share(f64),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Order {
    Shuffled,
    Length,
    Given,
}

impl std::convert::From<Order> for train::Order {
    fn from(order: Order) -> train::Order {
        match order {
            Order::Shuffled => train::Order::Shuffled,
            Order::Length => train::Order::Length,
            Order::Given => train::Order::Given,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Schedule {
    Cosine,
    Linear,
    Constant,
}

impl std::convert::From<Schedule> for train::Schedule {
    fn from(schedule: Schedule) -> train::Schedule {
        match schedule {
            Schedule::Cosine => train::Schedule::Cosine,
            Schedule::Linear => train::Schedule::Linear,
            Schedule::Constant => train::Schedule::Constant,
        }
    }
}
