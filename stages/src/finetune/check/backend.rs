//! Refuses by name what the chosen trainer does not do.

use std::path::Path;

use serde_json::{Map, Value};

use refrain_cache::read_plain;
use refrain_engine::kind::{Check, Problem};

use super::{is_gguf, is_true};

/// Bytes of a `config.json` that are read, at most.
const CONFIG: u64 = 16 << 20;
/// The hint for what our own module lacks.
const PEFT: &str = "`backend: peft` does it, with a Python that has torch, transformers and PEFT";

/// Whether the parameters choose the trainer outside.
pub(in super::super) fn is_peft(params: &Map<String, Value>) -> bool {
    params.get("backend").and_then(Value::as_str) == Some("peft")
}

/// Refuses what our own module does not do.
pub(super) fn check_native(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let mut refuse = |name: &str, message: &str| {
        problems.push(Problem::at(name, message).hint(PEFT));
    };
    if check.params.get("dtype").and_then(Value::as_str) == Some("bf16") {
        refuse("dtype", "our own module trains in 32 bits, so `dtype: bf16` is not done");
    }
    if check.params.contains_key("quantization") {
        refuse("quantization", "our own module does not quantize the base that it trains on");
    }
    if check.params.contains_key("attention") {
        refuse("attention", "our own module has one implementation of attention");
    }
    if is_true(check.params, "packing") {
        refuse("packing", "our own module never pads, so that there is nothing to pack");
    }
    if has(check, "trainer") {
        refuse("trainer", "`trainer` does nothing without `backend: peft`");
    }
}

/// Refuses what the trainer outside does not do. A script of the user's own may do more than ours.
pub(super) fn check_peft(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let params = check.params;
    let is_own = has(check, "trainer");
    if params.contains_key("kl") && !is_own {
        let problem = Problem::at("kl", "`peft` does not add the divergence of `kl` to the loss");
        problems.push(problem.hint("leave `kl` out, or train with `backend: native`"));
    }
    let dropout = params.get("lora").and_then(|lora| lora["dropout"].as_f64());
    if dropout.is_some_and(|dropout| dropout > 0.0) && !is_own {
        let message = "`peft` draws from torch's generator, so its dropout would not be ours";
        let problem = Problem::at("lora.dropout", message);
        problems.push(problem.hint("leave `dropout` out, or train with `backend: native`"));
    }
    if params.contains_key("quantization") {
        check_quantization(check, problems);
    }
    if let Some(path) = (check.models)("model") {
        check_files(check, &path, problems);
    }
}

/// A base in 4 bits is frozen, and stays apart from what is trained.
fn check_quantization(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let message = if !check.params.contains_key("lora") {
        "a base in 4 bits is frozen, so that only an adapter of it can be trained"
    } else if is_true(check.params, "merge") {
        "an adapter cannot be merged into a base in 4 bits"
    } else {
        return;
    };
    let hint = "leave `quantization` out, or give `lora` without `merge`";
    problems.push(Problem::at("quantization", message).hint(hint));
}

/// Refuses models that transformers does not read in the way that is asked for.
fn check_files(check: &Check<'_>, path: &Path, problems: &mut Vec<Problem>) {
    if is_gguf(path) {
        let hint = "give the folder with `config.json` and `*.safetensors` that it was made from";
        problems.push(Problem::at("model", "`peft` does not train GGUF").hint(hint));
        return;
    }
    let sdpa = check.params.get("attention").and_then(Value::as_str) == Some("sdpa");
    if sdpa && caps_scores(path) {
        let message = "`sdpa` cannot cap the scores of attention, which this model does";
        let problem = Problem::at("attention", message);
        problems.push(problem.hint("leave `attention` out: `eager` is then taken"));
    }
}

/// Whether a model caps the scores of its attention.
fn caps_scores(folder: &Path) -> bool {
    let config = read_plain(&folder.join("config.json"), CONFIG).ok();
    let config: Option<Value> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    config.is_some_and(|config| config["attn_logit_softcapping"].is_number())
}

fn has(check: &Check<'_>, input: &str) -> bool {
    check.inputs.iter().any(|given| given == input)
}
