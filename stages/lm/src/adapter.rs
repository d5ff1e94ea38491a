//! LoRA and DoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use refrain_cache::read_plain;

use crate::fields::MAX_BYTES;
use crate::random::Stream;
use crate::save::{F32Tensor, json_file, metadata};
use crate::tokenizer::MAX_BYTES as MAX_TOKENIZER;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Files that say how text becomes tokens.
const TOKENIZER_FILES: [&str; 4] =
    ["chat_template.jinja", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"];
/// PEFT wraps the model twice, and the names say so.
const PREFIX: &str = "base_model.model.";

/// An adapter: for each adapted linear layer a product of two thin matrices that is added to its
/// weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Its settings.
    pub config: AdapterConfig,
    /// Its tensors, by the path of the layer, such as `model.layers.0.self_attn.q_proj`.
    pub tensors: BTreeMap<String, LoraTensors>,
}

/// The settings of an adapter that change what it does, and those that PEFT needs beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The rank of the product, at least 1.
    pub r: usize,
    /// The product is multiplied by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// The share of inputs that were dropped in training.
    pub lora_dropout: f64,
    /// The last parts of the adapted layers' paths (`q_proj`), sorted.
    pub target_modules: Vec<String>,
    /// Whether each output is rescaled to a trained norm (DoRA, arXiv 2402.09353).
    pub use_dora: bool,
    /// Whether the product is multiplied by `lora_alpha / sqrt(r)` (rsLoRA, arXiv 2312.03732).
    pub use_rslora: bool,
    /// The model that the adapter belongs to, as a path or name.
    pub base_model_name_or_path: Option<String>,
}

/// The tensors of one adapted layer with weight `[outputs, inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraTensors {
    /// The number of inputs.
    pub inputs: usize,
    /// The number of outputs.
    pub outputs: usize,
    /// A `[r, inputs]`, row-major.
    pub a: Vec<f32>,
    /// B `[outputs, r]`, row-major.
    pub b: Vec<f32>,
    /// DoRA's norms `[outputs]`.
    pub magnitude: Option<Vec<f32>>,
}

impl LoraTensors {
    /// Draws a new adapter of a linear layer with weight `[outputs, inputs]`: `a` uniform as PEFT
    /// draws it, `b` zero, so that the layer computes what it did before.
    pub fn drawn(
        module: &str,
        [outputs, inputs]: [usize; 2],
        rank: usize,
        seed: u64,
    ) -> LoraTensors {
        // Kaiming's uniform initialisation with a = sqrt(5): bounds ±1 / sqrt(inputs).
        let stream = Stream::named(seed, module, &[]);
        let bound = 1.0 / (inputs as f64).sqrt();
        let a = (0..(rank * inputs) as u64)
            .map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32)
            .collect();
        LoraTensors { inputs, outputs, a, b: vec![0.0; outputs * rank], magnitude: None }
    }
}

/// An error of reading an adapter.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// A file is absent or cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("`{}` is not valid: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The fault.
        detail: String,
    },
    /// The adapter uses something that is not implemented.
    #[error("the adapter `{}` sets `{setting}` to {value}, which is not supported; {hint}", path.display())]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// The setting.
        setting: String,
        /// Its value as JSON.
        value: String,
        /// The remedy.
        hint: &'static str,
    },
    /// A tensor is absent, has a wrong shape or type, or holds a value that is not a number.
    #[error("tensor `{tensor}` in `{}` {detail}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's full name.
        tensor: String,
        /// The fault.
        detail: String,
    },
}

impl Adapter {
    /// Reads an adapter's folder. Tensors of type f16 and bf16 become f32.
    ///
    /// # Errors
    /// A file that is absent or broken, a setting that is not supported, and tensors that do not
    /// fit together.
    pub fn load(folder: &Path) -> Result<Adapter, AdapterError> {
        let config = read_config(&folder.join(CONFIG))?;
        let path = folder.join(WEIGHTS);
        let bytes = read_plain(&path, u64::MAX)
            .map_err(|source| AdapterError::Read { path: path.clone(), source })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| AdapterError::Invalid {
            path: path.clone(),
            detail: error.to_string(),
        })?;
        let tensors = read_layers(&path, &file, &config)?;
        let mut adapter = Adapter { config, tensors };
        if adapter.config.target_modules.is_empty() {
            let names =
                adapter.tensors.keys().map(|module| module.rsplit('.').next().unwrap_or(module));
            adapter.config.target_modules = names.map(str::to_owned).collect();
        }
        adapter.config.target_modules.sort();
        adapter.config.target_modules.dedup();
        Ok(adapter)
    }

    /// The factor of the product B A.
    pub fn scale(&self) -> f64 {
        self.config.scale()
    }

    /// The bytes of `adapter_config.json` and of `adapter_model.safetensors` (f32). They depend on
    /// the adapter alone.
    ///
    /// # Errors
    /// Tensors whose lengths do not fit their sizes, in the words of the format's writer.
    pub fn to_files(&self) -> Result<(Vec<u8>, Vec<u8>), safetensors::SafeTensorError> {
        let rank = self.config.r;
        let mut shapes = BTreeMap::new();
        for (module, layer) in &self.tensors {
            let mut put = |suffix: &str, shape: Vec<usize>, values| {
                shapes.insert(format!("{PREFIX}{module}.{suffix}"), (shape, values));
            };
            put("lora_A.weight", vec![rank, layer.inputs], &layer.a);
            put("lora_B.weight", vec![layer.outputs, rank], &layer.b);
            if let Some(magnitude) = &layer.magnitude {
                put("lora_magnitude_vector", vec![layer.outputs], magnitude);
            }
        }
        let views =
            shapes.iter().map(|(name, (shape, values))| (name, F32Tensor { shape, values }));
        Ok((json_file(&self.config.to_json()), safetensors::serialize(views, metadata())?))
    }
}

/// Lists files of the tokenizer and the chat template in an adapter's folder that differ from those
/// of its base: an adapter is applied with its base's.
pub fn own_tokenizer(adapter: &Path, base: &Path) -> Vec<&'static str> {
    let bytes = |folder: &Path, name: &str| read_plain(&folder.join(name), MAX_TOKENIZER).ok();
    let differs = |name: &&&'static str| {
        let own = bytes(adapter, name);
        own.is_some() && own != bytes(base, name)
    };
    TOKENIZER_FILES.iter().filter(differs).copied().collect()
}

impl AdapterConfig {
    /// The factor of the product B A: `lora_alpha / r`, or `lora_alpha / sqrt(r)` for rsLoRA.
    pub fn scale(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    fn to_json(&self) -> Value {
        // PEFT writes whole numbers as integers.
        let alpha = if self.lora_alpha.fract() == 0.0 && self.lora_alpha.abs() < 1e15 {
            json!(self.lora_alpha as i64)
        } else {
            json!(self.lora_alpha)
        };
        json!({
            "base_model_name_or_path": self.base_model_name_or_path,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": alpha,
            "lora_dropout": self.lora_dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.r,
            "target_modules": self.target_modules,
            "task_type": "CAUSAL_LM",
            "use_dora": self.use_dora,
            "use_rslora": self.use_rslora,
        })
    }
}

#[derive(Deserialize)]
struct ConfigFile {
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: Option<Value>,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    use_rslora: bool,
    base_model_name_or_path: Option<String>,
}

/// Settings that are read here, or that say how the adapter was made and not what it computes. Any
/// other that is set is refused: under it the tensors may mean something else than B A added to the
/// weight.
const KNOWN: [&str; 27] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_dora",
    "use_rslora",
];

fn read_config(path: &Path) -> Result<AdapterConfig, AdapterError> {
    let invalid = |detail: String| AdapterError::Invalid { path: path.to_owned(), detail };
    let read = read_plain(path, MAX_BYTES);
    let bytes = read.map_err(|source| AdapterError::Read { path: path.to_owned(), source })?;
    let settings: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    refuse_unsupported(path, &settings)?;
    let file = ConfigFile::deserialize(Value::Object(settings))
        .map_err(|error| invalid(error.to_string()))?;
    if file.r == 0 {
        return Err(invalid("`r` must be at least 1".to_owned()));
    }
    if !file.lora_alpha.is_finite() || !(0.0..1.0).contains(&file.lora_dropout) {
        return Err(invalid(
            "`lora_alpha` must be finite and `lora_dropout` from 0 to below 1".to_owned(),
        ));
    }
    // A pattern (`all-linear` or a regular expression) is replaced by what the tensors name.
    let listed = file
        .target_modules
        .as_ref()
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    Ok(AdapterConfig {
        r: file.r,
        lora_alpha: file.lora_alpha,
        lora_dropout: file.lora_dropout,
        target_modules: listed.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        use_dora: file.use_dora,
        use_rslora: file.use_rslora,
        base_model_name_or_path: file.base_model_name_or_path,
    })
}

fn refuse_unsupported(path: &Path, settings: &Map<String, Value>) -> Result<(), AdapterError> {
    let refuse = |setting: &str, value: &Value, hint| {
        Err(AdapterError::Unsupported {
            path: path.to_owned(),
            setting: setting.to_owned(),
            value: value.to_string(),
            hint,
        })
    };
    for (setting, expected) in [("peft_type", "LORA"), ("bias", "none")] {
        if let Some(value) = settings.get(setting).filter(|value| *value != expected) {
            return refuse(setting, value, "merge the adapter into its base with PEFT");
        }
    }
    let unknown =
        |(name, value): &(&String, &Value)| !KNOWN.contains(&name.as_str()) && is_set(value);
    if let Some((setting, value)) = settings.iter().find(unknown) {
        return refuse(setting, value, "merge the adapter into its base with PEFT");
    }
    match settings.get("init_lora_weights") {
        // These start from a changed base, so the tensors do not fit the base as it is published.
        Some(Value::String(kind)) if kind != "gaussian" && kind != "orthogonal" => refuse(
            "init_lora_weights",
            &json!(kind),
            "save it with PEFT's `path_initial_model_for_weight_conversion` as a plain LoRA",
        ),
        _ => Ok(()),
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
        _ => true,
    }
}

fn read_layers(
    path: &Path,
    file: &SafeTensors<'_>,
    config: &AdapterConfig,
) -> Result<BTreeMap<String, LoraTensors>, AdapterError> {
    let fail = |tensor: &str, detail: String| AdapterError::Tensor {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        detail,
    };
    let mut parts: BTreeMap<String, Parts<'_>> = BTreeMap::new();
    let mut names = file.names();
    names.sort_unstable();
    for name in names {
        let Some((module, part)) = split_name(name) else {
            return Err(fail(name, "is not part of a LoRA for linear layers".to_owned()));
        };
        let view = file.tensor(name).map_err(|error| fail(name, error.to_string()))?;
        let slots = parts.entry(module.to_owned()).or_default();
        slots.0[part as usize] = Some((name, view));
    }
    if parts.is_empty() {
        return Err(AdapterError::Invalid {
            path: path.to_owned(),
            detail: "it holds no tensors".to_owned(),
        });
    }
    let mut layers = BTreeMap::new();
    for (module, parts) in parts {
        let layer =
            parts.read(&module, config).map_err(|(tensor, detail)| fail(&tensor, detail))?;
        layers.insert(module, layer);
    }
    Ok(layers)
}

#[derive(Clone, Copy)]
enum Part {
    A,
    B,
    Magnitude,
}

fn split_name(name: &str) -> Option<(&str, Part)> {
    let path = name.strip_prefix(PREFIX)?;
    let endings = [
        (".lora_A.weight", Part::A),
        (".lora_B.weight", Part::B),
        (".lora_magnitude_vector", Part::Magnitude),
        // Earlier versions of PEFT kept the norms in a module of their own.
        (".lora_magnitude_vector.weight", Part::Magnitude),
    ];
    endings.into_iter().find_map(|(ending, part)| Some((path.strip_suffix(ending)?, part)))
}

/// The tensors of one layer under their full names, in the order of [`Part`].
#[derive(Default)]
struct Parts<'a>([Option<(&'a str, TensorView<'a>)>; 3]);

impl Parts<'_> {
    /// The layer, or the name of the tensor at fault and what is wrong with it.
    fn read(&self, module: &str, config: &AdapterConfig) -> Result<LoraTensors, (String, String)> {
        let Parts([a, b, magnitude]) = self;
        let absent = |ending: &str| (format!("{PREFIX}{module}.{ending}"), "is absent".to_owned());
        let (a_name, a) = a.as_ref().ok_or_else(|| absent("lora_A.weight"))?;
        let (b_name, b) = b.as_ref().ok_or_else(|| absent("lora_B.weight"))?;
        let shape = |name: &str, view: &TensorView<'_>, expected: &str| {
            (name.to_owned(), format!("has shape {}, not {expected}", shape_text(view.shape())))
        };
        let rank = config.r;
        let &[_, inputs] = view_of_rank(a, rank, 0)
            .ok_or_else(|| shape(a_name, a, &format!("[{rank}, inputs]")))?;
        let &[outputs, _] = view_of_rank(b, rank, 1)
            .ok_or_else(|| shape(b_name, b, &format!("[outputs, {rank}]")))?;
        let magnitude = match (magnitude, config.use_dora) {
            (None, false) => None,
            (None, true) => return Err(absent("lora_magnitude_vector")),
            (Some((name, _)), false) => {
                return Err((
                    (*name).to_owned(),
                    "is there although `use_dora` is false".to_owned(),
                ));
            }
            (Some((name, view)), true) if view.shape() != [outputs] => {
                return Err(shape(name, view, &format!("[{outputs}]")));
            }
            (Some((name, view)), true) => Some(values(name, view)?),
        };
        Ok(LoraTensors { inputs, outputs, a: values(a_name, a)?, b: values(b_name, b)?, magnitude })
    }
}

fn view_of_rank<'a>(view: &'a TensorView<'_>, rank: usize, at: usize) -> Option<&'a [usize; 2]> {
    let shape: &[usize; 2] = view.shape().try_into().ok()?;
    (shape[at] == rank && shape.iter().all(|&size| size > 0)).then_some(shape)
}

fn shape_text(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

fn values(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, (String, String)> {
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => {
            data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        Dtype::F16 => {
            data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        Dtype::BF16 => {
            data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        other => {
            return Err((
                name.to_owned(),
                format!("has type {other}; f32, f16 and bf16 can be read"),
            ));
        }
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err((name.to_owned(), format!("holds {} at index {at}", values[at]))),
    }
}
