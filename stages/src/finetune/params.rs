//! The parameters of `finetune`: their table, and the values that a run is given.

use refrain_engine::kind::{Bounds, File, Model, Table, choices, one_of, parameters};
use refrain_lm::train;

use crate::prompts::{ABOUT_BOS, ABOUT_CHAT, ABOUT_PROMPT, ABOUT_SYSTEM, Auto, Bos, Chat};
use crate::tokens::MOST_TOKENS;

const COUNT: Bounds<i64> = Bounds { min: 1, max: i32::MAX as i64, open: false };

parameters! {
    /// The parameters of `finetune`.
    pub(super) struct FinetuneParams {
        /// The model to train, or `from` for a new one
        #[alias("model_name_or_path", "base_model")]
        model: Option<&Model>,
        /// A new model with random weights, and a tokenizer trained on the data
        from: Option<NewModel>,
        /// The table with the rows to train on
        #[alias("train_dataset", "dataset")]
        data: &Table,
        /// Trains a low-rank adapter, unless `full: true`
        lora: Option<Lora>,
        /// Whether all weights are trained
        full: bool = false,
        /// Passes over all rows; 1 if neither this nor `steps` is given
        #[range(COUNT)]
        #[alias("num_train_epochs", "num_epochs")]
        epochs: Option<u64>,
        /// Optimizer steps, in place of `epochs`
        #[range(COUNT)]
        #[alias("max_steps")]
        steps: Option<u64>,
        /// Rows per batch
        #[range(COUNT)]
        #[alias("per_device_train_batch_size", "micro_batch_size")]
        batch_size: usize = 8,
        /// Batches per optimizer step, whose gradients are added
        #[range(COUNT)]
        #[alias("gradient_accumulation_steps")]
        accumulate: usize = 1,
        /// The order of the rows: a new random one each epoch, the longest first, or as given
        #[alias("group_by_length")]
        order: Order = "shuffled",
        /// Peak learning rate
        #[range(above 0.0)]
        #[alias("lr")]
        learning_rate: f64 = 2e-4,
        /// Decay of the learning rate after the warm-up
        #[alias("lr_scheduler_type", "lr_scheduler")]
        schedule: Schedule = "cosine",
        /// Steps, or a share of them below 1, over which the learning rate rises from zero
        #[alias("warmup_steps", "warmup_ratio")]
        warmup: Warmup = 0,
        /// Decay rates of AdamW's two moments
        #[each(0.0..=0.999_999_9)]
        #[alias("adam_beta1", "adam_beta2")]
        betas: Vec<f64> = [0.9, 0.999],
        /// AdamW epsilon
        #[range(above 0.0)]
        #[alias("adam_epsilon")]
        eps: f64 = 1e-8,
        /// AdamW's decoupled weight decay
        #[range(0.0..)]
        weight_decay: f64 = 0.0,
        /// Limit of the gradient norm; 0 does not clip
        #[range(0.0..)]
        #[alias("max_grad_norm")]
        clip: f64 = 1.0,
        /// The seed of initial weights, order and dropout
        #[range(0..)]
        seed: u64 = 0,
        /// Keeps the model near the one that it was before: adds the k3 estimate of the divergence
        /// on the trained tokens to the loss
        kl: Option<Kl>,
        /// A table, made like `data`, on whose trained tokens the loss is measured meanwhile
        #[alias("eval_dataset")]
        evaluate_on: Option<&Table>,
        /// Steps between two measurements; at the end of each epoch where not given
        #[range(COUNT)]
        #[alias("eval_steps")]
        evaluate_every: Option<u64>,
        /// Stops when the loss on `evaluate_on` no longer falls; the result is the model at its
        /// lowest loss
        early_stopping: Option<EarlyStopping>,
        /// Keeps the model as it was after each epoch, `NAME.epoch_1` and so on, or after these
        /// steps, `NAME.step_50`
        keep: Option<Keep>,
        #[about(ABOUT_PROMPT)]
        prompt: Option<String>,
        #[about(ABOUT_SYSTEM)]
        system: Option<String>,
        #[about(ABOUT_CHAT)]
        chat: Chat = "auto",
        #[about(ABOUT_BOS)]
        bos: Option<Bos>,
        /// The turns of the assistant that are trained: `last`, the response alone, or `all`, which
        /// needs a chat template
        train_on: Option<TrainOn>,
        /// Cuts longer rows to this many tokens; without it a row longer than the model's context
        /// is an error
        #[range(2..=MOST_TOKENS)]
        #[alias("max_seq_length", "max_length", "sequence_len", "cutoff_len")]
        max_tokens: Option<usize>,
        /// Whether the result is a whole model in place of an adapter
        merge: bool = false,
        /// The trainer: our own module, on the CPU, or `peft`, which hands the tokens to
        /// transformers and PEFT, for graphics cards
        backend: Option<Backend>,
        /// The type that matrix products are computed in; `bf16` needs `peft`
        #[alias("torch_dtype")]
        dtype: Option<Dtype>,
        /// Keeps the frozen base in 4 bits (QLoRA), with `peft`
        #[alias("bnb_4bit_quant_type")]
        quantization: Option<Quantization>,
        /// The implementation of attention, with `peft`; `sdpa` where not given, `eager` for models
        /// that cap their scores
        #[alias("attn_implementation")]
        attention: Option<Attention>,
        /// Whether the rows of a batch are laid one behind the other in place of being padded, with
        /// `peft`
        #[alias("sample_packing")]
        packing: Option<bool>,
        /// A script in the place of the trainer of `peft` (docs/trainer.md)
        trainer: Option<&File>,
        /// Whether activations are computed again in place of being kept: slower, in less memory,
        /// the same bits
        #[knob]
        gradient_checkpointing: Recompute = "auto",
        /// Seconds between two writes of the state from which an interrupted training goes on
        #[range(0.0..=A_DAY)]
        #[knob]
        #[alias("save_steps")]
        checkpoint_every: f64 = 30.0,
    }
}

/// More seconds than that between two writes are never.
const A_DAY: f64 = 86_400.0;

choices! {
    /// The trainer.
    pub(super) enum Backend {
        /// Our own module.
        Native = "native",
        /// transformers, PEFT and accelerate.
        Peft = "peft",
    }
}

choices! {
    /// The type that matrix products are computed in.
    pub(super) enum Dtype {
        F32 = "f32",
        Bf16 = "bf16",
    }
}

choices! {
    /// The form in which a frozen base is kept.
    pub(super) enum Quantization {
        Nf4 = "nf4",
    }
}

choices! {
    /// The implementation of attention.
    pub(super) enum Attention {
        /// torch's own.
        Sdpa = "sdpa",
        /// FlashAttention.
        Flash = "flash",
        /// Matrix products and a softmax.
        Eager = "eager",
    }
}

parameters! {
    /// The parameter `kl`.
    #[derive(Copy)]
    pub(super) struct Kl {
        /// Weight of the divergence in the loss
        #[range(0.0..)]
        #[alias("kl_coef")]
        weight: f64,
    }
}

parameters! {
    /// The parameter `early_stopping`.
    #[derive(Copy)]
    pub(super) struct EarlyStopping {
        /// Measurements without improvement after which training ends
        #[range(COUNT)]
        #[alias("early_stopping_patience")]
        patience: u64,
        /// By how much the loss must fall to count as improvement
        #[range(0.0..)]
        min_delta: f64 = 0.0,
    }
}

parameters! {
    /// The parameter `lora`.
    pub(super) struct Lora {
        /// The rank of the two thin matrices
        #[range(1..=65_536)]
        #[alias("lora_r", "r")]
        rank: Option<usize>,
        /// Their product is multiplied by alpha / rank; twice the rank where not given
        #[range(above 0.0)]
        #[alias("lora_alpha")]
        alpha: Option<f64>,
        /// Dropout of the adapter's inputs
        #[range(0.0..=0.99)]
        #[alias("lora_dropout")]
        dropout: f64 = 0.0,
        /// The adapted linear layers; all where not given
        #[alias("target_modules", "lora_target_modules")]
        targets: Option<Vec<Target>>,
        /// Whether the norm of each output is trained too (DoRA)
        #[alias("use_dora")]
        dora: Option<bool>,
        /// Whether the product is multiplied by alpha / sqrt(rank) (rsLoRA)
        #[alias("use_rslora")]
        rslora: Option<bool>,
        /// An adapter of the same model that is trained further, with its own settings
        from: Option<&Model>,
    }
}

choices! {
    /// A linear layer that an adapter can be put on.
    pub(super) enum Target {
        Q = "q_proj",
        K = "k_proj",
        V = "v_proj",
        O = "o_proj",
        Gate = "gate_proj",
        Up = "up_proj",
        Down = "down_proj",
        /// Query, key and value of Phi-3, which are one.
        Qkv = "qkv_proj",
        /// Gate and up of Phi-3, which are one.
        GateUp = "gate_up_proj",
    }
}

impl Target {
    /// The linear layers of a family whose matrices are apart.
    pub(super) const APART: [Target; 7] =
        [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// Those that a family has in place of several of the others.
    pub(super) const FUSED: [Target; 2] = [Target::Qkv, Target::GateUp];
}

parameters! {
    /// The parameter `from`.
    pub(super) struct NewModel {
        /// The model's shape, in the words of `config.json`
        config: ModelShape,
        /// The byte-level BPE tokenizer
        tokenizer: TokenizerShape,
    }
}

parameters! {
    /// The parameter `from.config`.
    pub(super) struct ModelShape {
        /// The architecture
        model_type: Architecture = "llama",
        /// Size of the hidden state
        #[range(COUNT)]
        hidden_size: u64,
        /// Size of the feed-forward layers
        #[range(COUNT)]
        intermediate_size: u64,
        /// Number of layers
        #[range(COUNT)]
        num_hidden_layers: u64,
        /// Query heads
        #[range(COUNT)]
        num_attention_heads: u64,
        /// Key and value heads; as many as query heads where not given
        #[range(COUNT)]
        num_key_value_heads: Option<u64>,
        /// Size of a head; `hidden_size` / `num_attention_heads` where not given
        #[range(COUNT)]
        head_dim: Option<u64>,
        /// The longest row, in tokens
        #[range(COUNT)]
        max_position_embeddings: u64 = 2048,
        /// Keys that a query of `mistral` sees
        #[range(COUNT)]
        sliding_window: Option<u64>,
        /// Base of the rotary frequencies
        #[range(above 0.0)]
        rope_theta: f64 = 10000.0,
        /// Epsilon of the norms
        #[range(above 0.0)]
        rms_norm_eps: f64 = 1e-6,
        /// Whether the output head is the embedding
        tie_word_embeddings: bool = false,
        /// Standard deviation of the initial matrices
        #[range(above 0.0)]
        initializer_range: f64 = 0.02,
    }
}

choices! {
    /// The family of a new model.
    pub(super) enum Architecture {
        Llama = "llama",
        Mistral = "mistral",
        Qwen2 = "qwen2",
    }
}

parameters! {
    /// The parameter `from.tokenizer`.
    pub(super) struct TokenizerShape {
        /// Size limit of the vocabulary, including 256 bytes and special tokens
        #[range(1..=16_777_216)]
        vocab_size: usize,
        /// Special tokens beside the usual ones
        special_tokens: Vec<String> = [],
        /// The chat template; a plain one where not given
        chat_template: Option<String>,
    }
}

one_of! {
    /// Whether activations are computed again.
    #[derive(Copy)]
    pub(super) enum Recompute {
        Given(bool),
        Word(Auto),
    }
}

one_of! {
    /// The models that are kept on the way.
    pub(super) enum Keep {
        Epochs(EachEpoch),
        #[each(1..=MOST_STEPS)]
        Steps(Vec<u64>),
    }
}

choices! {
    /// The word for all epochs.
    pub(super) enum EachEpoch {
        EachEpoch = "each_epoch",
    }
}

one_of! {
    /// Length of the warm-up.
    #[derive(Copy)]
    pub(super) enum Warmup {
        #[range(0..=MOST_STEPS)]
        Steps(u64),
        #[range(0.0..=1.0)]
        Share(f64),
    }
}

const MOST_STEPS: i64 = i32::MAX as i64;

choices! {
    /// The turns of the assistant that are trained.
    pub(super) enum TrainOn {
        /// The response alone.
        Last = "last",
        /// Earlier turns too.
        All = "all",
    }
}

choices! {
    /// The order of the rows.
    pub(super) enum Order {
        Shuffled = "shuffled",
        Length = "length",
        Given = "given",
    }
}

choices! {
    /// Decay of the learning rate.
    pub(super) enum Schedule {
        Cosine = "cosine",
        Linear = "linear",
        Constant = "constant",
    }
}

impl From<EarlyStopping> for train::EarlyStopping {
    fn from(EarlyStopping { patience, min_delta }: EarlyStopping) -> train::EarlyStopping {
        train::EarlyStopping { patience, min_delta }
    }
}

impl From<Order> for train::Order {
    fn from(order: Order) -> train::Order {
        match order {
            Order::Shuffled => train::Order::Shuffled,
            Order::Length => train::Order::Length,
            Order::Given => train::Order::Given,
        }
    }
}

impl From<Schedule> for train::Schedule {
    fn from(schedule: Schedule) -> train::Schedule {
        match schedule {
            Schedule::Cosine => train::Schedule::Cosine,
            Schedule::Linear => train::Schedule::Linear,
            Schedule::Constant => train::Schedule::Constant,
        }
    }
}
