//! The static check of `diversify`: what its parameters need of each other and of its tables.

use arrow::datatypes::DataType;
use serde_json::Value;

use refrain_engine::kind::{Check, Columns, MetricContext, Problem};

use crate::tables::{list_of, with_fields};

use super::column_statistics::of_measure;
use super::measure::Measure;
use super::{DIVERSIFY, chosen, dedupe, embedded, join, keep, masks, mix, replace, require};

/// The ways to choose rows or columns.
const WAYS: [&str; 6] = ["keep", "dedupe", "select", "join", "mix", "replace"];

pub(super) fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    if !check_data(check, problems) {
        return None;
    }
    let record = |name: &str| check.params.get(name).and_then(Value::as_object);
    let ways: Vec<&str> =
        WAYS.into_iter().filter(|name| check.params.contains_key(*name)).collect();
    if let [first, second, ..] = ways.as_slice() {
        let problem = Problem::at(*second, format!("`{second}` cannot stand beside `{first}`"));
        problems.push(problem.hint("make two stages, one reading the other"));
    }
    if let Some(keep) = record("keep") {
        keep::check(check, keep, problems);
    }
    if let Some(dedupe) = check.params.get("dedupe") {
        dedupe::check(check, dedupe, problems);
    }
    check_measure(check, ways.is_empty(), problems);
    check_against(check, problems);
    check_embeddings(check, problems);
    let context = MetricContext { params: check.params, inputs: check.inputs };
    require::check(check, &DIVERSIFY.metric_names(context), problems);

    let columns = match ways.as_slice() {
        ["mix", ..] => {
            let total = check.params.get("total").and_then(Value::as_u64);
            mix::check(check, check.params.get("mix")?, total, problems)?
        }
        ["replace", ..] => replace::check(check, record("replace")?, problems)?,
        ["join", ..] => join::check(check, record("join")?, problems)?,
        ["keep", ..] => {
            let keep = record("keep")?;
            let ranks = keep.get("ranks") == Some(&Value::Bool(true));
            let schema = (check.columns)("data")?;
            chosen::schema(&schema, ranks, keep.contains_key("fallback"))
        }
        _ => (check.columns)("data")?,
    };
    let embed = check.params.get("embed") == Some(&Value::Bool(true));
    let added = [(embedded::COLUMN, list_of(DataType::Float32))];
    Some(if embed { with_fields(&columns, &added) } else { columns })
}

/// Checks that the table is named in one place; whether there is one.
fn check_data(check: &Check<'_>, problems: &mut Vec<Problem>) -> bool {
    let given = check.inputs.iter().any(|input| input == "data");
    match check.params.contains_key("mix") {
        true if given => {
            let problem = Problem::at("data", "`mix` names its tables itself");
            problems.push(problem.hint("leave `data` out, or make it an entry of `mix`"));
        }
        false if !given => {
            let problem = Problem::at("", "`diversify` needs `data`");
            problems.push(problem.hint("`data`: the table"));
            return false;
        }
        _ => {}
    }
    if check.params.contains_key("total") && !check.params.contains_key("mix") {
        let problem = Problem::at("total", "`total` is the size of a mixture");
        problems.push(problem.hint("leave it out, or give `mix`"));
    }
    true
}

/// The measures that are words, with their places in the list.
fn words(check: &Check<'_>) -> Vec<(usize, Measure)> {
    let items = check.params.get("measure").and_then(Value::as_array).into_iter().flatten();
    let words = items.enumerate();
    words.filter_map(|(i, item)| Some((i, serde_json::from_value(item.clone()).ok()?))).collect()
}

fn check_measure(check: &Check<'_>, alone: bool, problems: &mut Vec<Problem>) {
    let measures = check.params.get("measure").and_then(Value::as_array);
    let measures = measures.map(Vec::as_slice).unwrap_or_default();
    let given = |name: &str| check.params.contains_key(name);
    let embed = check.params.get("embed") == Some(&Value::Bool(true));
    if alone && measures.is_empty() && !given("neighbours") && !embed {
        let problem = Problem::at("", "it has nothing to do");
        problems.push(
            problem.hint("give `keep`, `dedupe`, `select`, `join`, `mix`, `replace` or `measure`"),
        );
    }
    let of_texts =
        |measure: Measure| measure.is_of_texts() || measure.is_embedded() && has_model(check);
    if words(check).iter().any(|(_, measure)| of_texts(*measure)) {
        check.need(problems, "data", "response", &[DataType::Utf8]);
    }
    let columns = of_measure(check.params.get("measure"));
    for (i, column) in &columns {
        column.check(&format!("measure[{i}]"), check, problems);
    }
    let per = check.params.get("per").and_then(Value::as_array).into_iter().flatten();
    per.filter_map(Value::as_str).for_each(|name| check.need(problems, "data", name, &[]));
    if given("per") && measures.is_empty() {
        let problem = Problem::at("per", "`per` needs a measure");
        problems.push(problem.hint("for example `measure: [distinct_2]`"));
    }
}

fn has_model(check: &Check<'_>) -> bool {
    check.inputs.iter().any(|input| input == "embeddings")
}

/// Checks that `against` is given where something needs it, and only there.
fn check_against(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let given = check.inputs.iter().any(|input| input == "against");
    let between: Vec<(usize, Measure)> =
        words(check).into_iter().filter(|(_, measure)| measure.is_between()).collect();
    match between.first() {
        Some((i, measure)) if !given => {
            let message = format!("`{}` compares two tables", measure.word());
            let problem = Problem::at(format!("measure[{i}]"), message);
            problems.push(problem.hint("name the second table: `against: TABLE`"));
        }
        None if given => {
            let problem = Problem::at("against", "nothing here compares two tables");
            problems.push(problem.hint(
                "measure `frechet`, `mmd`, `neighbour_precision`, `neighbour_recall`, \
                 `vocabulary_shift`, `new_words`, `mask_agreement` or `mask_jaccard`",
            ));
        }
        _ => {}
    }
    let of_texts =
        |measure: Measure| measure.is_of_texts() || measure.is_embedded() && has_model(check);
    if given && between.iter().any(|(_, measure)| of_texts(*measure)) {
        check.need(problems, "against", "response", &[DataType::Utf8]);
    }
    if given && between.iter().any(|(_, measure)| measure.is_of_masks()) {
        for table in ["data", "against"] {
            check.need(problems, table, "id", &[DataType::Utf8]);
            check.need(problems, table, masks::MASK, &[list_of(DataType::Boolean)]);
        }
    }
}

/// Checks that embeddings can be had where something needs them, and are used where a model is
/// given.
fn check_embeddings(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let param = |name: &str| check.params.get(name);
    let embedded: Vec<(usize, Measure)> =
        words(check).into_iter().filter(|(_, measure)| measure.is_embedded()).collect();
    let method = param("select").and_then(|select| select.get("method")).and_then(Value::as_str);
    let semantic = param("dedupe").is_some_and(|dedupe| dedupe.get("semantic").is_some());
    let embed = param("embed") == Some(&Value::Bool(true));
    let place = if semantic {
        Some("dedupe.semantic".to_owned())
    } else if method.is_some_and(|method| method != "random") {
        Some("select.method".to_owned())
    } else if let Some((i, _)) = embedded.first() {
        Some(format!("measure[{i}]"))
    } else if param("neighbours").is_some() {
        Some("neighbours".to_owned())
    } else {
        embed.then(|| "embed".to_owned())
    };
    let Some(at) = place else {
        if has_model(check) {
            let problem = Problem::at("embeddings", "nothing here uses embeddings");
            problems.push(problem.hint(
                "measure one of `vendi`, `dcscore`, `cosine_distance`, or add `embed: true`",
            ));
        }
        return;
    };
    if has_model(check) {
        return check.need(problems, "data", "response", &[DataType::Utf8]);
    }

    let hint = "add `embeddings: MODEL`, for example of a sentence-transformers folder";
    let mut tables = vec!["data"];
    let between = embedded.iter().any(|(_, measure)| measure.is_between());
    tables.extend(
        (between && check.inputs.iter().any(|input| input == "against")).then_some("against"),
    );
    if embed || tables.iter().any(|table| check.has(table, embedded::COLUMN) == Some(false)) {
        problems.push(Problem::at(at, "it needs a model for `embeddings`").hint(hint));
        return;
    }
    let numbers = [DataType::Float32, DataType::Float64, DataType::Int64, DataType::Int32];
    let types = numbers.map(list_of);
    tables.iter().for_each(|table| check.need(problems, table, embedded::COLUMN, &types));
}
