//! The JSON Schema of the language: it takes every workflow of the repository, and refuses what `check` refuses.

use std::path::Path;

use refrain_engine::language::yaml;
use regex::Regex;
use serde_json::{Value, json};

use crate::space::Space;

fn schema() -> Value {
    serde_json::from_str(&Space::new().run(&["schema"]).stdout).unwrap()
}

/// What is wrong with a value, of the keywords that the schema uses; another keyword is a failure of the test.
///
/// A validator from outside would do, but none is without features that make all other dependencies compile twice.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let Value::Object(keywords) = schema else {
        assert_eq!(*schema, true, "a schema is an object or true");
        return Vec::new();
    };
    let mut found = Vec::new();
    let holds = |schema: &Value| faults(root, schema, value, at).is_empty();
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("there is no type `{other}`"),
    };
    let number = value.as_f64();
    for (keyword, wanted) in keywords {
        let list = || wanted.as_array().unwrap();
        let bound = || wanted.as_f64().unwrap();
        let right = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" => true,
            "$ref" => {
                holds(root.pointer(wanted.as_str().unwrap().strip_prefix('#').unwrap()).unwrap())
            }
            "type" => match wanted {
                Value::String(name) => is(name),
                names => names.as_array().unwrap().iter().any(|name| is(name.as_str().unwrap())),
            },
            "const" => value == wanted,
            "enum" => list().contains(value),
            "anyOf" => list().iter().any(holds),
            "oneOf" => list().iter().filter(|schema| holds(schema)).count() == 1,
            "not" => !holds(wanted),
            "minimum" => number.is_none_or(|number| number >= bound()),
            "maximum" => number.is_none_or(|number| number <= bound()),
            "exclusiveMinimum" => number.is_none_or(|number| number > bound()),
            "pattern" => value
                .as_str()
                .is_none_or(|text| Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text)),
            "minItems" => value.as_array().is_none_or(|items| items.len() as f64 >= bound()),
            "minProperties" => value.as_object().is_none_or(|map| map.len() as f64 >= bound()),
            "required" => value.as_object().is_none_or(|map| {
                list().iter().all(|name| map.contains_key(name.as_str().unwrap()))
            }),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(root, wanted, item, &format!("{at}[{i}]")));
                }
                true
            }
            "propertyNames" => {
                let names = value.as_object().into_iter().flatten().map(|(name, _)| json!(name));
                names.for_each(|name| found.extend(faults(root, wanted, &name, at)));
                true
            }
            "properties" => {
                for (name, schema) in wanted.as_object().unwrap() {
                    let value = value.get(name).into_iter();
                    value.for_each(|v| {
                        found.extend(faults(root, schema, v, &format!("{at}.{name}")))
                    });
                }
                true
            }
            "additionalProperties" => {
                let own = keywords.get("properties").and_then(Value::as_object);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if own.is_some_and(|own| own.contains_key(name)) {
                        continue;
                    }
                    match wanted {
                        Value::Bool(false) => found.push(format!("{at}.{name}: unknown")),
                        schema => {
                            found.extend(faults(root, schema, value, &format!("{at}.{name}")))
                        }
                    }
                }
                true
            }
            other => panic!("the test does not know `{other}`"),
        };
        if !right {
            found.push(format!("{at}: `{keyword}` does not hold"));
        }
    }
    found
}

fn check(schema: &Value, text: &str) -> Vec<String> {
    faults(schema, schema, &yaml::parse(text).unwrap().to_json(), "")
}

#[test]
fn it_takes_every_workflow_of_the_repository() {
    let schema = schema();
    let mut checked = 0;
    for folder in ["examples", "workflows"] {
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap()
        {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "yaml") {
                let faults = check(&schema, &std::fs::read_to_string(&path).unwrap());
                assert!(faults.is_empty(), "{}: {faults:?}", path.display());
                checked += 1;
            }
        }
    }
    assert!(checked >= 2);
}

/// A workflow that is right and uses much of the language.
const RIGHT: &str = r#"refrain: 1
name: all
params: { seed: 17, options: { above: 2 }, task: exact_match }
models: { base: { path: base } }
data:
  train: { path: train.jsonl, format: jsonl, columns: { prompt: q }, rows: 0..20 }
  held: { path: held.jsonl, rows: { sample: 5, seed: "${seed}" } }
stages:
  scored:
    description: words
    resources: { threads: 2, batch: 8 }
    score: { model: base, data: train }
  masked: { mask: { data: scored, above: "${threshold}" } }
  tuned: { finetune: { model: base, data: masked, lora: { rank: 4 }, epochs: 1, warmup: 0.1, batch_size: 4.0 } }
  answers: { generate: { model: tuned, data: held, samples: 2, stop: [a, 1], seed: "${seed}" } }
  kept: { diversify: { data: answers, keep: { per: id, where: { finish_reason: stop } }, dedupe: exact } }
  judged: { evaluate: { model: tuned, data: held, task: "${task}", temperature: 0.5, max_new_tokens: 8 } }
  weighed: { evaluate: { model: tuned, data: held, task: perplexity, of: text } }
  told: { run: { command: [echo, 1, true], inputs: { x: kept }, outputs: { y: table } } }
sweep: { threshold: [1.5, 2], arm: [{ name: a, x: 1 }] }
expect:
  - { stage: judged, metric: accuracy, at: { threshold: 2 }, value: 0.5, within: 0.1, source: a paper }
results: { columns: { a: judged.accuracy }, mean_over: [arm] }
"#;

/// Replacements that make it wrong.
const WRONG: &[(&str, &str)] = &[
    ("refrain: 1", "refrain: 2"),
    ("refrain: 1\n", ""),
    ("stages:", "stagse:"),
    ("score: {", "scroe: {"),
    ("score: { model: base, data: train }", "score: { model: base }"),
    ("score: { model: base, data: train }", "score: { model: base, data: train, samples: 3 }"),
    ("score: { model: base, data: train }", "score: { model: base, data: [train] }"),
    ("samples: 2", "samples: 0"),
    ("samples: 2", "samples: 1.5"),
    ("samples: 2", "samples: many"),
    ("samples: 2", "samples: true"),
    ("rank: 4", "rnak: 4"),
    ("warmup: 0.1", "warmup: 1.1"),
    ("threads: 2", "threads: none"),
    ("format: jsonl", "format: xml"),
    ("{ path: train.jsonl", "{ file: train.jsonl"),
    ("models: { base: { path: base } }", "models: { base: { path: base, rows: 0..1 } }"),
    ("train: { path", "in: { path"),
    ("train: { path", "9train: { path"),
    ("dedupe: exact", "dedupe: fuzzy"),
    ("outputs: { y: table }", "outputs: { y: picture }"),
    ("threshold: [1.5, 2]", "threshold: 2"),
    ("threshold: [1.5, 2]", "threshold: []"),
    ("within: 0.1", "within: -1"),
    ("mean_over: [arm]", "mean_over: arm"),
    ("max_new_tokens: 8", "max_new_tokens: 0"),
    ("max_new_tokens: 8", "max_new_token: 8"),
    ("    description: words", "    description: [words]"),
    ("name: all", "name: [all]"),
];

#[test]
fn it_refuses_what_the_language_refuses() {
    let schema = schema();
    assert_eq!(check(&schema, RIGHT), [] as [String; 0]);
    let space = Space::new();
    for (from, to) in WRONG {
        assert!(RIGHT.contains(from), "`{from}`");
        let text = RIGHT.replacen(from, to, 1);
        assert!(!check(&schema, &text).is_empty(), "`{to}` passes");
        space.write("w.yaml", &text);
        let said = space.run(&["check", "w.yaml"]);
        assert_eq!(said.code, 2, "`{to}`: {}", said.stderr);
    }
}

#[test]
fn every_default_is_a_value_of_its_own_type() {
    fn walk(root: &Value, schema: &Value, at: &str, seen: &mut usize) {
        if let Some(default) = schema.get("default") {
            assert_eq!(faults(root, schema, default, at), [] as [String; 0]);
            *seen += 1;
        }
        match schema {
            Value::Object(map) => {
                map.iter()
                    .for_each(|(name, below)| walk(root, below, &format!("{at}/{name}"), seen));
            }
            Value::Array(list) => list.iter().for_each(|below| walk(root, below, at, seen)),
            _ => {}
        }
    }
    let (schema, mut seen) = (schema(), 0);
    walk(&schema, &schema, "", &mut seen);
    assert!(seen > 40, "{seen}");
}
