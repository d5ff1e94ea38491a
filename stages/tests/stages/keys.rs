//! Every parameter of every kind moves the key, and nothing else does: a loop over the kinds' tables.

use std::time::Duration;

use serde_json::{Map, Value, json};

use refrain_cache::{Digest, Key};
use refrain_engine::graph::{Edge, Node, NodeId, Work};
use refrain_engine::kind::{Component, Default, Kind, MAIN, Param, Type, coerce};
use refrain_engine::language::workflow::{Retry, Settings};
use refrain_engine::language::yaml;
use refrain_engine::plan::node_manifest::manifest;
use refrain_stages::kinds;

/// A stage of a kind, as the workflow gives it, with what is around it.
pub(crate) struct Stage {
    kind: Kind,
    given: Map<String, Value>,
    settings: Settings,
    name: &'static str,
    /// What an artifact's digest is made of, given the name that refers to it.
    content: fn(&str) -> String,
}

impl Stage {
    pub(crate) fn new(kind: Kind, given: Map<String, Value>) -> Stage {
        let settings = Settings::default();
        Stage { kind, given, settings, name: "stage", content: |name| name.to_string() }
    }

    /// Its key, through the same steps as in a run: typed with defaults, references taken out, inputs by digest.
    pub(crate) fn key(&self) -> Key {
        let text = Value::Object(self.given.clone()).to_string();
        let mut problems = Vec::new();
        let resolved =
            coerce(self.kind.params, &yaml::parse(&text).unwrap(), "`kind`", &mut problems);
        assert!(problems.is_empty(), "{}: {text}: {problems:?}", self.kind.name);
        let content = |name: &String| Digest::of_bytes((self.content)(name).as_bytes());
        let inputs: Vec<Digest> =
            resolved.references.iter().map(|reference| content(&reference.name)).collect();
        let edge = |(i, path): (usize, &String)| Edge {
            path: path.clone(),
            node: NodeId(i as u32),
            output: MAIN.into(),
        };
        let paths = resolved.references.iter().map(|r| &r.path);
        let node = Node {
            name: format!("{}[axis=1]", self.name),
            stage: self.name.into(),
            point: vec![("axis".into(), self.name.into())],
            inputs: paths.enumerate().map(edge).collect(),
            outputs: (self.kind.outputs)(&resolved.values).into(),
            work: Work::Stage { kind: self.kind.into(), params: resolved.values.into() },
            settings: self.settings.clone().into(),
            span: 0..0,
        };
        let input = |edge: &Edge| inputs.get(edge.node.index()).map(|digest| vec![*digest]);
        manifest(&node, input, None).expect("all inputs are done").key()
    }
}

/// Values of a type, no two of which mean the same. A record is only what it must be: its own parameters are walked.
fn values(ty: &Type) -> Vec<Value> {
    let mut all = match ty {
        Type::Bool => vec![json!(false), json!(true)],
        Type::Int { min, max } => (*min..=*max).take(3).map(Value::from).collect(),
        Type::Float { min, max, .. } => {
            let low = if min.is_finite() { *min } else { 0.0 };
            let width = if max.is_finite() { max - low } else { 1.0 };
            vec![json!(low + 0.25 * width), json!(low + 0.5 * width)]
        }
        Type::Text | Type::Command => ["a", "b", ""].map(Value::from).into(),
        Type::Secret => ["a", "${env:A}", "${env:B}"].map(Value::from).into(),
        Type::Choice(words) => words.iter().map(|w| Value::from(*w)).collect(),
        Type::Reference(_) => vec![json!("one"), json!("other")],
        Type::Metric => vec![json!("one.a"), json!("one.b"), json!("other.a")],
        Type::List(item) => {
            let items = values(item);
            let one = items.iter().map(|item| json!([item]));
            one.chain([json!([]), json!([items[0], items[0]])]).collect()
        }
        Type::Record(params) | Type::YamlFile { params, .. } => {
            vec![Value::Object(required(params))]
        }
        Type::Map(item) => {
            let items = values(item);
            let one = items.iter().map(|item| json!({ "k": item }));
            one.chain([json!({}), json!({ "j": items[0] })]).collect()
        }
        Type::OneOf(types) => types.iter().flat_map(values).collect(),
        Type::Any => vec![json!(1), json!("a"), json!([1])],
    };
    let mut seen: Vec<Value> = Vec::new();
    all.retain(|value| {
        !seen.iter().any(|s| same(s, value)) && {
            seen.push(value.clone());
            true
        }
    });
    all
}

/// Whether two values are one to the language: numbers are compared by value.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64())
}

/// The parameters that must be given, each with its first value.
fn required(params: &[Param]) -> Map<String, Value> {
    let must = params.iter().filter(|p| matches!(p.default, Default::Required));
    must.map(|p| (p.name.to_string(), values(&p.ty)[0].clone())).collect()
}

/// Makes a value of some type of a record that stands in it.
type Wrap = fn(Value) -> Value;
/// Makes the whole mapping of a stage, with or without a value of one parameter.
type With<'a> = &'a dyn Fn(Option<Value>) -> Map<String, Value>;

/// The records inside a type, each with how a value of the type is made of one of the record.
fn records(ty: &Type) -> Vec<(&'static [Param], Wrap)> {
    match ty {
        Type::Record(params) | Type::YamlFile { params, .. } => vec![(params, |record| record)],
        Type::OneOf(types) => types.iter().flat_map(records).collect(),
        Type::List(Type::Record(params)) => vec![(params, |record| json!([record]))],
        _ => Vec::new(),
    }
}

/// Walks a table of parameters, calling `visit` with the path, the parameter and what makes the whole mapping of a value.
fn walk(
    path: &str,
    params: &'static [Param],
    whole: &dyn Fn(Map<String, Value>) -> Map<String, Value>,
    visit: &mut dyn FnMut(&str, &Param, With<'_>),
) {
    for param in params {
        let path = format!("{path}.{}", param.name);
        let with = |value: Option<Value>| {
            let mut record = required(params);
            match value {
                Some(value) => drop(record.insert(param.name.into(), value)),
                None => drop(record.remove(param.name)),
            }
            whole(record)
        };
        visit(&path, param, &with);
        for (inner, wrap) in records(&param.ty) {
            walk(&path, inner, &|record| with(Some(wrap(Value::Object(record)))), visit);
        }
    }
}

#[test]
fn every_parameter_moves_the_key_and_every_knob_does_not() {
    let mut flips = 0;
    for kind in kinds().iter() {
        let key = |given| Stage::new(*kind, given).key();
        walk(kind.name, kind.params, &|given| given, &mut |path, param, with| {
            let nested = path.matches('.').count() > 1;
            assert!(
                param.semantic || !nested,
                "{path}: a knob must stand at the top of its kind's table"
            );
            let values = values(&param.ty);
            let keys: Vec<Key> =
                values.iter().map(|value| key(with(Some(value.clone())))).collect();
            for (i, a) in keys.iter().enumerate() {
                for (j, b) in keys.iter().enumerate().skip(i + 1) {
                    let moved = a != b;
                    assert_eq!(moved, param.semantic, "{path}: {} and {}", values[i], values[j]);
                    flips += 1;
                }
            }
            match param.default {
                Default::Required => {}
                Default::Absent => {
                    let absent = key(with(None));
                    assert!(
                        keys.iter().all(|k| (*k != absent) == param.semantic),
                        "{path}: given or not"
                    );
                }
                Default::Json(text) => {
                    let default: Value = serde_json::from_str(text).unwrap();
                    assert_eq!(
                        key(with(Some(default))),
                        key(with(None)),
                        "{path}: its default written out"
                    );
                }
            }
        });
    }
    assert!(flips > 300, "{flips} pairs of values were compared");
}

/// Whether a value of the type names a metric, which is an input of the node.
fn holds_metric(ty: &Type) -> bool {
    match ty {
        Type::Metric => true,
        Type::List(item) | Type::Map(item) => holds_metric(item),
        Type::Record(params) => params.iter().any(|param| holds_metric(&param.ty)),
        Type::OneOf(types) => types.iter().any(holds_metric),
        _ => false,
    }
}

#[test]
fn a_parameter_that_is_called_a_knob_leaves_the_key() {
    for kind in kinds().iter() {
        for (i, param) in kind.params.iter().enumerate() {
            if matches!(param.ty, Type::Reference(_) | Type::Map(Type::Reference(_)))
                || holds_metric(&param.ty)
            {
                continue;
            }
            let mut params = kind.params.to_vec();
            params[i].semantic = false;
            // The versions of components may follow from the parameter, and stay in the key.
            let kind = Kind { params: params.leak(), versions: None, ..*kind };
            let key = |value: &Value| {
                let mut given = required(kind.params);
                given.insert(param.name.into(), value.clone());
                Stage::new(kind, given).key()
            };
            // What refers to another artifact stays an input, whatever else is said of the parameter.
            let values = values(&param.ty);
            let plain = |v: &&Value| {
                !v.to_string().contains("\"one\"") && !v.to_string().contains("\"other\"")
            };
            let keys: Vec<Key> = values.iter().filter(plain).map(key).collect();
            assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{}.{}", kind.name, param.name);
        }
    }
}

#[test]
fn a_key_knows_contents_and_versions_but_no_names_and_no_resources() {
    for kind in kinds().iter() {
        let given = required(kind.params);
        let stage = || Stage::new(*kind, given.clone());
        let key = stage().key();
        let resources = Settings {
            threads: Some(3),
            memory: Some(1 << 30),
            gpus: Some(1),
            batch: Some(7),
            ..Settings::default()
        };
        let retry = Some(Retry { times: 3, wait: Duration::from_secs(1), factor: 2.0 });
        let attempts =
            Settings { retry, timeout: Some(Duration::from_secs(9)), ..Settings::default() };
        let words = Settings { description: Some("words".into()), ..Settings::default() };
        for settings in [resources, attempts, words] {
            assert_eq!(
                key,
                Stage { settings: settings.clone(), ..stage() }.key(),
                "{}: {settings:?}",
                kind.name
            );
        }
        assert_eq!(
            key,
            Stage { name: "renamed", ..stage() }.key(),
            "{}: the stage's name",
            kind.name
        );
        if kind
            .params
            .iter()
            .any(|p| matches!((p.ty, p.default), (Type::Reference(_), Default::Required)))
        {
            let content: fn(&str) -> String = |_| "something else".into();
            assert_ne!(key, Stage { content, ..stage() }.key(), "{}: an input's bytes", kind.name);
            let content: fn(&str) -> String = |name| name.replace("other", "one");
            let renamed: Map<String, Value> = given
                .iter()
                .map(|(name, value)| {
                    (name.clone(), if value == "one" { json!("other") } else { value.clone() })
                })
                .collect();
            let renamed = Stage { given: renamed, content, ..stage() };
            assert_eq!(key, renamed.key(), "{}: an input's name", kind.name);
        }
        for (i, component) in kind.components.iter().enumerate() {
            let mut components: Vec<Component> = kind.components.to_vec();
            components[i].version += 1;
            let kind = Kind { components: components.leak(), ..*kind };
            assert_ne!(
                key,
                Stage::new(kind, given.clone()).key(),
                "{}: {}",
                kind.name,
                component.name
            );
        }
        let kind = Kind { name: "another", ..*kind };
        assert_ne!(key, Stage::new(kind, given.clone()).key(), "the kind's name");
    }
}

/// A parameter that may be absent, beside the parameters on which its default depends, and that default: written out
/// it must make the same key. A model with a chat template is at `model`.
const RESOLVED: &[(&str, &str, &str, &str)] = &[
    ("generate", "{ model: m, data: d }", "top_p", "1"),
    ("generate", "{ model: m, data: d }", "min_p", "0"),
    ("generate", "{ model: m, data: d }", "repetition_penalty", "1"),
    ("generate", "{ model: m, data: d }", "chat", "true"),
    ("generate", "{ model: m, data: d }", "backend", "native"),
    ("score", "{ model: m, data: d }", "chat", "true"),
    ("score", "{ model: m, data: d, of: text }", "chat", "false"),
    ("score", "{ model: m, data: d, of: continuation }", "chat", "false"),
    ("score", "{ model: m, data: d }", "backend", "native"),
    ("generate", "{ model: m, data: d }", "kv", "f32"),
    ("generate", "{ model: m, data: d }", "bos", "auto"),
    ("score", "{ model: m, data: d }", "bos", "auto"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "bos", "auto"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "train_on", "last"),
    ("evaluate", "{ data: d, task: regex, extract: { regex: x } }", "extract.trim", "false"),
    ("evaluate", "{ data: d, task: choice_logprob }", "by", "sum"),
    ("evaluate", "{ data: d, task: sql }", "as", "multiset"),
    ("evaluate", "{ data: d, task: judge }", "pairs", "false"),
    ("diversify", "{ data: d, keep: { per: id } }", "keep.count", "1"),
    ("diversify", "{ data: d, keep: { per: id } }", "keep.random", "false"),
    ("diversify", "{ data: d, keep: { per: id } }", "keep.ranks", "false"),
    ("diversify", "{ data: d, dedupe: { minhash: 0.7 } }", "dedupe.shingle", "5"),
    ("diversify", "{ data: d, measure: [distinct_1] }", "words", "whitespace"),
    ("diversify", "{ data: d, measure: [dcscore] }", "dcscore", "{ temperature: 1 }"),
    ("diversify", "{ data: d, measure: [mmd] }", "neighbourhood", "3"),
    ("diversify", "{ data: d, measure: [vendi] }", "embed", "false"),
    ("mask", "{ data: d, above: 2.5 }", "hybrid", "false"),
    ("mask", "{ data: d, above: 2.5 }", "statistics", "false"),
    ("evaluate", "{ data: d, task: number }", "extract", "gsm8k"),
    ("evaluate", "{ data: d, task: number }", "compare", "number"),
    ("evaluate", "{ data: d, task: exact_match }", "extract", "whole"),
    ("evaluate", "{ data: d, task: exact_match }", "compare", "text"),
    ("evaluate", "{ data: d, task: regex, pattern: x }", "compare", "text"),
    ("evaluate", "{ data: d, task: code }", "extract", "code"),
    ("evaluate", "{ data: d, task: code }", "tests", "tests"),
    ("evaluate", "{ data: d, task: code }", "time_limit", "10"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "lora.alpha", "8"),
    (
        "finetune",
        "{ model: m, data: d, lora: { rank: 4 } }",
        "lora.targets",
        "[down_proj, up_proj, gate_proj, o_proj, v_proj, k_proj, q_proj]",
    ),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "lora.targets", "[]"),
    ("finetune", "{ model: m, data: d, full: true }", "backend", "native"),
    ("finetune", "{ model: m, data: d, full: true }", "dtype", "f32"),
    ("finetune", "{ model: m, data: d, full: true }", "packing", "false"),
    ("finetune", "{ model: m, data: d, full: true, backend: peft }", "dtype", "f32"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "lora.dora", "false"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "lora.rslora", "false"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "epochs", "1"),
    ("finetune", "{ model: m, data: d, lora: { rank: 4 } }", "chat", "true"),
    ("finetune", NEW, "full", "true"),
    ("finetune", NEW, "chat", "true"),
    ("finetune", NEW, "from.config.num_key_value_heads", "4"),
    ("finetune", NEW, "from.config.head_dim", "8"),
    ("prepare", EXAMPLES, "fewshot_seed", "1234"),
    ("prepare", EXAMPLES, "task.lm_eval.output_type", "generate_until"),
    ("prepare", EXAMPLES, "task.lm_eval.description", "''"),
    ("prepare", EXAMPLES, "task.lm_eval.target_delimiter", "' '"),
    ("prepare", EXAMPLES, "task.lm_eval.fewshot_delimiter", "\"\\n\\n\""),
    ("prepare", EXAMPLES, "task.lm_eval.metadata", "{ version: 1 }"),
];

const NEW: &str = "{ data: d, from: { config: { hidden_size: 32, intermediate_size: 64, \
                   num_hidden_layers: 1, num_attention_heads: 4 }, tokenizer: { vocab_size: 300 } } }";

/// Parameters that may be absent and have no value that means the same.
const WITHOUT_DEFAULT: &[&str] = &[
    "generate.top_k",
    "generate.prompt",
    "generate.system",
    "generate.shots",
    "generate.into",
    "score.prompt",
    "score.system",
    "score.max_tokens",
    "score.window",
    "score.choices",
    "score.continuation",
    "score.prior",
    "mask.above",
    "mask.below",
    "mask.quantile",
    "mask.budget",
    "mask.control",
    "mask.relative_to",
    "mask.histogram",
    "diversify.keep",
    "diversify.keep.per",
    "diversify.keep.where",
    "diversify.keep.lowest",
    "diversify.keep.highest",
    "diversify.keep.median",
    "diversify.keep.fallback",
    "diversify.join",
    "diversify.join.columns",
    "diversify.join.suffix",
    "diversify.per",
    "diversify.dedupe",
    "diversify.dedupe.exact",
    "diversify.dedupe.semantic",
    "diversify.dedupe.minhash",
    "diversify.select",
    "diversify.require",
    "diversify.against",
    // One over the width of the vectors, which is not known before they are read.
    "diversify.dcscore.gamma",
    // Each measure has its own.
    "diversify.sample",
    "diversify.neighbours",
    "diversify.embeddings",
    "finetune.model",
    "finetune.from",
    "finetune.lora",
    "finetune.lora.rank",
    "finetune.lora.from",
    "finetune.steps",
    "finetune.kl",
    "finetune.evaluate_on",
    // As many steps as the rows make, which are not known before they are read.
    "finetune.evaluate_every",
    "finetune.early_stopping",
    "finetune.prompt",
    "finetune.system",
    "finetune.max_tokens",
    "finetune.from.config.sliding_window",
    // The text of the plain template, which a test of its own writes out.
    "finetune.from.tokenizer.chat_template",
    "evaluate.model",
    "evaluate.pattern",
    "evaluate.entry_point",
    "evaluate.prefix",
    "evaluate.choices",
    "evaluate.database",
    "evaluate.databases",
    // Its own parameters have defaults, which a test of its own writes out.
    "evaluate.limits",
    "evaluate.limits.steps",
    "evaluate.limits.rows",
    "evaluate.judge",
    "evaluate.judgements",
    "evaluate.swapped",
    "evaluate.databases.folder",
    "evaluate.human",
    "run.metrics",
    "run.bases",
    "diversify.data",
    "diversify.mix",
    "diversify.mix.share",
    "diversify.mix.rows",
    "diversify.mix.name",
    "diversify.total",
    "diversify.replace",
    "finetune.keep",
    "finetune.quantization",
    // The trainer takes what the model's family allows.
    "finetune.attention",
    "finetune.trainer",
    "choose.model",
    "choose.data",
    "choose.highest",
    "choose.lowest",
    "choose.require",
    "choose.require.min",
    "choose.require.max",
    "evaluate.extract.after",
    "evaluate.extract.regex",
    "prepare.fewshot",
    "prepare.num_fewshot",
];

/// A task with examples, its file read.
const EXAMPLES: &str = "{ data: d, task: { lm_eval: { doc_to_text: a, num_fewshot: 2 } } }";

#[test]
fn a_resolved_default_written_out_makes_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
                     "vocab_size": 32, "num_hidden_layers": 1, "intermediate_size": 16}"#;
    for (name, content) in [
        ("config.json", config),
        ("model.safetensors", ""),
        ("tokenizer.json", "{}"),
        ("chat_template.jinja", "{{ messages }}"),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let model = |path: &str| (path == "model").then(|| kinds().model_facts(folder.path()));
    let canonical = |kind: &Kind, given: &Value| {
        let mut problems = Vec::new();
        let node = yaml::parse(&given.to_string()).unwrap();
        let mut values = coerce(kind.params, &node, "`kind`", &mut problems).values;
        assert!(problems.is_empty(), "{}: {given}: {problems:?}", kind.name);
        if let Some(canonicalize) = kind.canonicalize {
            canonicalize(&mut values, &model);
        }
        Value::Object(values)
    };
    for (kind, given, path, default) in RESOLVED {
        let kind = *kinds().get(kind).unwrap();
        let given = yaml::parse(given).unwrap().to_json();
        let mut written = given.clone();
        let mut place = &mut written;
        for name in path.split('.') {
            place = place.as_object_mut().unwrap().entry(name).or_insert(Value::Null);
        }
        *place = yaml::parse(default).unwrap().to_json();
        assert_eq!(canonical(&kind, &written), canonical(&kind, &given), "{}.{path}", kind.name);
    }
    let kind = *kinds().get("finetune").unwrap();
    let mut new = yaml::parse(NEW).unwrap().to_json();
    let absent = canonical(&kind, &new);
    new["from"]["tokenizer"]["chat_template"] =
        refrain_lm::tokenizer_training::CHAT_TEMPLATE.into();
    assert_eq!(canonical(&kind, &new), absent, "finetune.from.tokenizer.chat_template");
}

#[test]
fn no_parameter_that_may_be_absent_is_forgotten() {
    let mut forgotten = Vec::new();
    for kind in kinds().iter() {
        walk(kind.name, kind.params, &|given| given, &mut |path, param, _| {
            let resolved =
                RESOLVED.iter().any(|(kind, _, name, _)| format!("{kind}.{name}") == path);
            // What another tool's file leaves out is settled where the file is read.
            let without = WITHOUT_DEFAULT.contains(&path) || path.contains(".lm_eval.");
            if matches!(param.default, Default::Absent) && !resolved && !without {
                forgotten.push(path.to_owned());
            }
            assert!(!(resolved && WITHOUT_DEFAULT.contains(&path)), "{path}");
        });
    }
    assert!(forgotten.is_empty(), "{forgotten:?}: have they defaults that depend on others?");
}
