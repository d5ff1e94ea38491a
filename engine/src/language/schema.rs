//! The JSON Schema of the language, generated from the tables that also check a workflow.

use serde_json::{Map, Value, json};

use crate::kind::{Default, Kind, Kinds, Param, Type};
use crate::language::workflow::{INCLUDE, REPEAT, RESERVED, RESOURCES, RETRY};
use crate::report::{comparison, expect, results};
use crate::source;

/// A free name, as [`check_name`](crate::kind::check_name) takes it.
const NAME: &str = "^[A-Za-z_][A-Za-z0-9_-]{0,99}$";

/// Returns the schema (draft 2020-12) of workflows with these kinds.
///
/// It takes every workflow that is right, and refuses what the tables refuse: unknown keys, missing parameters, wrong
/// types and ranges. Of names, columns and the values behind `${…}` it knows nothing.
pub fn schema(kinds: &Kinds) -> Value {
    let names = json!({ "pattern": NAME, "not": { "enum": RESERVED } });
    let section = |about: &str, entry: Value| {
        json!({
            "description": about,
            "type": ["object", "null"],
            "propertyNames": names,
            "additionalProperties": entry,
        })
    };
    let one = json!({ "anyOf": [stage(kinds), repeated(stage(kinds))] });
    let mut stages = section("the steps, each with one kind as its key, and loops of such", one);
    stages["type"] = json!("object");
    stages["minProperties"] = json!(1);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "a workflow of refrain",
        "type": "object",
        "required": ["refrain"],
        "anyOf": [{ "required": ["stages"] }, { "required": ["include"] }],
        "additionalProperties": false,
        "properties": {
            "refrain": { "description": "the version of the language", "const": 1 },
            "name": { "description": "its name, for people", "type": "string" },
            "description": { "description": "its question, for people", "type": ["string", "null"] },
            "license": { "description": "its licence, by its SPDX name or address", "type": ["string", "null"] },
            "authors": { "description": "a name or a list of names" },
            "date": { "description": "its date: 2026, 2026-11 or 2026-11-26" },
            "params": section("values that `${NAME}` stands for; `--set` replaces them", json!(true)),
            "models": section("the models that the workflow reads", model()),
            "data": section("the tables and files that the workflow reads", data()),
            "include": section("files whose stages are brought in as `NAME/STAGE`", record(INCLUDE, Values::Plain)),
            "stages": stages,
            "sweep": sweep(&names),
            "compare": section("differences of two arms", comparison()),
            "expect": {
                "description": "what must hold after a run",
                "type": ["array", "null"],
                "items": condition(),
            },
            "results": or_null(record(results::PARAMS, Values::Plain), "what the table of results shows"),
        },
        "$defs": { "param": {
            "description": "the value of a param or an axis",
            "type": "string",
            "pattern": r"^\$\{[^}]+\}$",
        } },
    })
}

/// Whether `${…}` may stand in place of a value.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// It may.
    Put,
    /// Values stand there as they are.
    Plain,
}

fn or_null(mut schema: Value, about: &str) -> Value {
    schema["type"] = json!(["object", "null"]);
    schema["description"] = json!(about);
    schema
}

/// A model: a folder, a repository on the hub, or a name at a server.
fn model() -> Value {
    let mut schema = record(source::MODEL_PARAMS, Values::Put);
    schema["oneOf"] = json!([
        alone(&["path"], &["hub", "server"]),
        alone(&["hub"], &["path", "server"]),
        alone(&["server", "name", "revision"], &["path", "hub"]),
    ]);
    schema
}

/// A source: a path, files of a repository on the hub, or a file on the web.
fn data() -> Value {
    let mut schema = record(source::PARAMS, Values::Put);
    schema["oneOf"] = json!([
        alone(&["path"], &["hub", "url"]),
        alone(&["hub"], &["path", "url"]),
        alone(&["url", "digest"], &["path", "hub"]),
    ]);
    schema
}

/// Names that must be there, and names of which none may be there.
fn alone(names: &[&str], others: &[&str]) -> Value {
    let others: Vec<Value> = others.iter().map(|name| json!({ "required": [name] })).collect();
    json!({ "required": names, "not": { "anyOf": others } })
}

/// A condition: on a metric of a stage, or on an expression.
fn condition() -> Value {
    let mut schema = record(expect::PARAMS, Values::Plain);
    let one = json!([{ "required": ["of"] }, { "required": ["compare"] }]);
    let of = json!([
        { "required": ["stage"] }, { "required": ["metric"] }, { "required": ["compare"] },
    ]);
    let compare = json!([
        { "required": ["stage"] }, { "required": ["metric"] }, { "required": ["of"] },
        { "required": ["at"] }, { "required": ["by"] },
    ]);
    schema["oneOf"] = json!([
        { "required": ["stage", "metric"], "not": { "anyOf": one } },
        { "required": ["of"], "not": { "anyOf": of } },
        { "required": ["compare"], "not": { "anyOf": compare } },
    ]);
    schema
}

/// A comparison: of a metric of a stage, or of an expression.
fn comparison() -> Value {
    let mut schema = record(comparison::PARAMS, Values::Plain);
    let metric = json!([{ "required": ["stage"] }, { "required": ["metric"] }]);
    schema["oneOf"] = json!([
        { "required": ["stage", "metric"], "not": { "anyOf": [{ "required": ["of"] }, { "required": ["figures"] }] } },
        { "required": ["of"], "not": { "anyOf": metric } },
    ]);
    schema
}

fn sweep(names: &Value) -> Value {
    json!({
        "description": "lists of values, multiplied; or a list of points with a name",
        "anyOf": [
            { "type": "null" },
            {
                "type": "object",
                "propertyNames": names,
                "additionalProperties": { "type": "array", "minItems": 1 },
            },
            { "type": "array", "minItems": 1, "items": { "type": "object", "required": ["name"] } },
        ],
    })
}

fn stage(kinds: &Kinds) -> Value {
    let mut properties = Map::new();
    properties
        .insert("description".into(), json!({ "description": "for people", "type": "string" }));
    let resources =
        or_null(record(RESOURCES, Values::Plain), "what it may use; cannot change a result");
    properties.insert("resources".into(), resources);
    let times = RETRY
        .iter()
        .filter(|param| param.name == "times")
        .map(|param| of(&param.ty, Values::Plain));
    let retry: Vec<Value> = times.chain([record(RETRY, Values::Plain)]).collect();
    let about =
        "how often a failed stage is tried again, and after what time; cannot change a result";
    properties.insert("retry".into(), json!({ "description": about, "anyOf": retry }));
    let about =
        "the longest that one attempt may take, such as `90s` or `2h`; cannot change a result";
    properties.insert("timeout".into(), json!({ "description": about, "type": "string" }));
    let mut one = Vec::new();
    for kind in kinds.iter() {
        let mut params = put(record_of(&parameters(kind, kinds), Values::Put), &Type::Record(&[]));
        params["description"] = json!(kind.about);
        properties.insert(kind.name.into(), params);
        one.push(json!({ "required": [kind.name] }));
    }
    json!({ "type": "object", "properties": properties, "additionalProperties": false, "oneOf": one })
}

/// A loop of stages.
fn repeated(stage: Value) -> Value {
    let mut repeat = record(REPEAT, Values::Put);
    let names = json!({ "pattern": NAME, "not": { "enum": RESERVED } });
    // A stage of an include or of another loop has a slash in its name.
    repeat["properties"]["carry"]["propertyNames"] =
        json!({ "pattern": "^[A-Za-z_][A-Za-z0-9_/-]*$" });
    json!({
        "type": "object",
        "required": ["repeat"],
        "anyOf": [{ "required": ["stages"] }, { "required": ["include"] }],
        "additionalProperties": false,
        "properties": {
            "description": { "description": "for people" },
            "repeat": repeat,
            "stages": {
                "type": "object",
                "propertyNames": names,
                "minProperties": 1,
                "additionalProperties": stage,
            },
            "include": {
                "type": "object",
                "propertyNames": names,
                "minProperties": 1,
                "additionalProperties": record(INCLUDE, Values::Plain),
            },
        },
    })
}

/// A parameter's name with the types that it may have.
type Parameter = (&'static Param, Vec<Type>);

/// Lists the parameters of a kind and, where it may be planned as two stages, those that then go to the first.
fn parameters(kind: &Kind, kinds: &Kinds) -> Vec<Parameter> {
    let mut parameters: Vec<Parameter> =
        kind.params.iter().map(|param| (param, vec![param.ty])).collect();
    for values in probes(kind) {
        let Some(expansion) = kind.expand.and_then(|expand| expand(&values)) else { continue };
        let first = kinds.get(expansion.kind).into_iter().flat_map(|first| first.params);
        for param in first.filter(|param| (expansion.takes)(param.name).is_first()) {
            match parameters.iter_mut().find(|(known, _)| known.name == param.name) {
                None => parameters.push((param, vec![param.ty])),
                // Its own parameters are as its own table says.
                Some((known, _)) if kind.params.iter().any(|own| own.name == known.name) => {}
                Some((_, types)) => types.push(param.ty),
            }
        }
    }
    parameters
}

/// Lists values on which the expansion of a kind may depend: all references given, and each word of each choice and
/// each mapping that may stand in its place.
pub(super) fn probes(kind: &Kind) -> Vec<Map<String, Value>> {
    let given = |param: &&Param| matches!(param.ty, Type::Reference(_));
    let references = kind.params.iter().filter(given);
    let base: Map<String, Value> =
        references.map(|param| (param.name.into(), json!("name"))).collect();
    let mut probes = vec![base.clone()];
    for param in kind.params {
        let types = match param.ty {
            Type::OneOf(types) => types,
            _ => std::slice::from_ref(&param.ty),
        };
        probes.extend(types.iter().flat_map(shapes).map(|shape| {
            let mut probe = base.clone();
            probe.insert(param.name.into(), shape);
            probe
        }));
    }
    probes
}

/// Lists the words of a choice, or a mapping with an empty one under each key.
fn shapes(ty: &Type) -> Vec<Value> {
    match ty {
        Type::Choice(words) => words.iter().map(|word| json!(word)).collect(),
        Type::Record(params) => {
            vec![params.iter().map(|param| (param.name.to_owned(), json!({}))).collect()]
        }
        _ => Vec::new(),
    }
}

fn record(params: &'static [Param], values: Values) -> Value {
    let parameters: Vec<Parameter> = params.iter().map(|param| (param, vec![param.ty])).collect();
    record_of(&parameters, values)
}

fn record_of(parameters: &[Parameter], values: Values) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (param, types) in parameters {
        let mut schemas: Vec<Value> = Vec::new();
        for ty in types {
            let schema = of(ty, values);
            if !schemas.contains(&schema) {
                schemas.push(schema);
            }
        }
        let mut schema =
            if schemas.len() == 1 { schemas.remove(0) } else { json!({ "anyOf": schemas }) };
        schema["description"] = json!(param.about);
        match param.default {
            Default::Required => required.push(param.name),
            Default::Absent => {}
            Default::Json(text) => {
                schema["default"] =
                    serde_json::from_str(text).expect("a default of a kind's table is JSON");
            }
        }
        properties.insert(param.name.into(), schema);
    }
    let mut schema =
        json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn of(ty: &Type, values: Values) -> Value {
    let schema = bare(ty, values);
    if values == Values::Put { put(schema, ty) } else { schema }
}

/// Admits `${…}` in place of a value; a type that takes any text takes it already.
fn put(schema: Value, ty: &Type) -> Value {
    match ty {
        _ if takes_text(ty) => schema,
        // A word may be put together.
        Type::Choice(_) => json!({ "anyOf": [schema, { "type": "string", "pattern": r"\$\{" }] }),
        _ => json!({ "anyOf": [schema, { "$ref": "#/$defs/param" }] }),
    }
}

fn takes_text(ty: &Type) -> bool {
    match ty {
        Type::Text | Type::Command | Type::Secret | Type::Any => true,
        Type::Reference(_) | Type::Metric | Type::YamlFile { .. } => true,
        Type::OneOf(types) => types.iter().any(takes_text),
        Type::Bool | Type::Int { .. } | Type::Float { .. } | Type::Choice(_) => false,
        Type::List(_) | Type::Record(_) | Type::Map(_) => false,
    }
}

fn bare(ty: &Type, values: Values) -> Value {
    match ty {
        Type::Bool => json!({ "type": "boolean" }),
        Type::Int { min, max } => {
            let mut schema = json!({ "type": "integer" });
            if *min > i64::MIN {
                schema["minimum"] = json!(min);
            }
            if *max < i64::MAX {
                schema["maximum"] = json!(max);
            }
            schema
        }
        Type::Float { min, max, open } => {
            let mut schema = json!({ "type": "number" });
            if min.is_finite() {
                schema[if *open { "exclusiveMinimum" } else { "minimum" }] = json!(min);
            }
            if max.is_finite() {
                schema["maximum"] = json!(max);
            }
            schema
        }
        Type::Text | Type::Command | Type::Secret => {
            json!({ "type": ["string", "number", "boolean"] })
        }
        Type::Choice(words) => json!({ "enum": words }),
        Type::Reference(_) | Type::Metric | Type::YamlFile { .. } => json!({ "type": "string" }),
        Type::List(item) => json!({ "type": "array", "items": of(item, values) }),
        Type::Record(params) => record(params, values),
        Type::Map(item) => json!({
            "type": "object",
            "propertyNames": { "pattern": NAME },
            "additionalProperties": of(item, values),
        }),
        Type::OneOf(types) => {
            json!({ "anyOf": types.iter().map(|ty| bare(ty, values)).collect::<Vec<_>>() })
        }
        Type::Any => json!({}),
    }
}
