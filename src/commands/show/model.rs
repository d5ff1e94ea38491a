//! A model's card: what it is, its size and tokenizer, and how it was made.

use std::path::Path;

use serde_json::{Value, json};

use refrain_cache::{Artifact, ArtifactKind, Digest, Record};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::plan::state::StateError;
use refrain_engine::source::seen::{SeenSource, SourcePlace};
use refrain_stages::card::Card;

use crate::cli::Format;
use crate::command_error::CommandError;
use crate::output;

/// The model that is shown.
pub struct Shown<'a> {
    /// The folder with configuration and weights; of an adapter its base's.
    pub folder: &'a Path,
    /// The adapter's folder.
    pub adapter: Option<&'a Path>,
    /// The base model's name in the workflow.
    pub base: Option<&'a str>,
    /// The digest of the model's folder, or of its adapter's.
    pub digest: Digest,
    /// The size of what has that digest.
    pub bytes: u64,
    /// How it was made, when a workflow made it.
    pub made: Option<Made<'a>>,
}

/// Where a model comes from.
pub struct Made<'a> {
    /// The node.
    pub node: &'a str,
    /// What the cache keeps of it.
    pub record: Record,
}

impl Shown<'_> {
    /// A folder outside of any workflow.
    pub fn folder(folder: &Path) -> Result<Shown<'_>, CommandError> {
        let seen = SeenSource::read(&SourcePlace::new(folder, ArtifactKind::Model))
            .map_err(StateError::from)?;
        let Artifact { digest, bytes, .. } = seen.artifact(None);
        Ok(Shown { folder, adapter: None, base: None, digest, bytes, made: None })
    }
}

/// Shows the card.
pub fn show(shown: &Shown<'_>, format: Format) -> Result<(), CommandError> {
    let read = |folder: &Path| {
        Card::read(folder).map_err(|e| {
            CommandError::with_hint(
                ErrorClass::Input,
                e.to_string(),
                "a model is a folder with `config.json`, `*.safetensors` and `tokenizer.json`",
            )
        })
    };
    let card = read(shown.folder)?;
    let adapter = shown.adapter.map(read).transpose()?;
    // A folder may hold an adapter alone.
    let adapter = adapter.as_ref().or(Some(&card)).filter(|card| card.adapter.is_some());
    if format == Format::Json {
        let model = model_json(shown, &card, adapter);
        output::json(
            &json!({ "refrain": 1, "model": model, "made": shown.made.as_ref().map(made_json) }),
        );
    } else {
        for (name, text) in lines(shown, &card, adapter) {
            output::line(&format!("{name:12}{text}"));
        }
    }
    Ok(())
}

fn model_json(shown: &Shown<'_>, card: &Card, adapter: Option<&Card>) -> Value {
    let config = card.config.as_ref();
    let tokenizer = card.tokenizer.as_ref();
    let adapter =
        adapter.and_then(|card| Some((card, card.adapter.as_ref()?))).map(|(card, settings)| {
            json!({
                "parameters": card.weights.parameters,
                "rank": settings.r,
                "alpha": settings.lora_alpha,
                "targets": settings.target_modules,
                "dora": settings.use_dora,
                "rslora": settings.use_rslora,
                "base": shown.base.or(settings.base_model_name_or_path.as_deref()),
            })
        });
    json!({
        "path": shown.adapter.unwrap_or(shown.folder),
        "digest": shown.digest,
        "bytes": shown.bytes,
        "family": card.family,
        "native": config.is_some(),
        "parameters": card.weights.parameters,
        "dtypes": card.weights.dtypes,
        "layers": config.map(|c| c.layers),
        "hidden_size": config.map(|c| c.hidden),
        "heads": config.map(|c| c.heads),
        "key_value_heads": config.map(|c| c.kv_heads),
        "context": config.map(|c| c.max_positions),
        "vocabulary": config.map(|c| c.vocab),
        "tokenizer": tokenizer.map(|t| json!({ "kind": t.kind, "size": t.size, "chat_template": t.chat_template })),
        "adapter": adapter,
    })
}

fn made_json(made: &Made<'_>) -> Value {
    let Record { key, kind, result, seconds, manifest, version } = &made.record;
    json!({
        "node": made.node,
        "kind": kind,
        "key": key,
        "manifest": manifest,
        "profile": result.profile,
        "seconds": seconds,
        "version": version,
    })
}

/// The lines for people: heading and text.
fn lines(shown: &Shown<'_>, card: &Card, adapter: Option<&Card>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let dtypes: Vec<&str> = card.weights.dtypes.iter().map(String::as_str).collect();
    if let Some(family) = &card.family {
        let native = if card.config.is_some() { "" } else { ", not native" };
        lines.push(("family", format!("{family}{native}")));
        let parameters = grouped(card.weights.parameters);
        lines.push(("parameters", format!("{parameters}, {}", dtypes.join(" and "))));
    }
    if let Some(config) = &card.config {
        let (layers, hidden) = (output::count(config.layers, "layer"), config.hidden);
        let (heads, shared) = (output::count(config.heads, "head"), config.kv_heads);
        lines.push((
            "shape",
            format!("{layers} of {hidden}, {heads} ({shared} for keys and values)"),
        ));
        lines.push(("context", format!("{} tokens", config.max_positions)));
    }
    if let Some(tokenizer) = &card.tokenizer {
        let template = if tokenizer.chat_template { "a" } else { "no" };
        let size = grouped(tokenizer.size as u64);
        lines.push((
            "tokenizer",
            format!("{}, {size} tokens, {template} chat template", tokenizer.kind),
        ));
    }
    if let Some((card, settings)) = adapter.and_then(|card| Some((card, card.adapter.as_ref()?))) {
        let kind = match (settings.use_dora, settings.use_rslora) {
            (true, _) => "DoRA",
            (false, true) => "rsLoRA",
            (false, false) => "LoRA",
        };
        let (rank, alpha) = (settings.r, settings.lora_alpha);
        let parameters = grouped(card.weights.parameters);
        lines.push((
            "adapter",
            format!("{kind}, rank {rank}, alpha {alpha}, {parameters} parameters"),
        ));
        lines.push(("targets", settings.target_modules.join(", ")));
        lines.extend(
            shown.base.or(settings.base_model_name_or_path.as_deref()).map(|b| ("base", b.into())),
        );
    }
    lines.push(("digest", shown.digest.to_string()));
    lines.push(("bytes", grouped(shown.bytes)));
    lines.push(("path", shown.adapter.unwrap_or(shown.folder).display().to_string()));
    if let Some(Made { node, record }) = &shown.made {
        lines.push(("made by", format!("`{node}`, {}", record.kind)));
        lines.push(("key", record.key.to_string()));
        lines.push((
            "took",
            format!(
                "{:.1} s, refrain {}, {}",
                record.seconds, record.version, record.result.profile
            ),
        ));
        for (path, value) in record.manifest.leaves() {
            lines.push(("", format!("{path}: {value}")));
        }
    }
    lines
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_stand_apart() {
        let grouped = |n| super::grouped(n);
        assert_eq!(
            [grouped(0), grouped(999), grouped(1000), grouped(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
