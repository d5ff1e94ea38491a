//! What the kinds' tables say of added columns is what their checks promise.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

use refrain_engine::kind::{Check, coerce};
use refrain_engine::language::yaml;
use refrain_stages::kinds;
use refrain_stages::tables::list_of;

#[test]
fn each_kind_adds_the_columns_that_its_table_names() {
    let all = [
        ("id", DataType::Utf8),
        ("prompt", DataType::Utf8),
        ("response", DataType::Utf8),
        ("reference", DataType::Utf8),
        ("token_ids", list_of(DataType::Int32)),
        ("logprobs", list_of(DataType::Float32)),
        ("prompt_tokens", DataType::Int32),
    ];
    for (kind, given) in [
        ("generate", "{ model: m, data: d }"),
        ("score", "{ model: m, data: d }"),
        ("mask", "{ data: d, above: 2 }"),
        ("diversify", "{ data: d, dedupe: exact }"),
        ("evaluate", "{ data: d, task: exact_match }"),
    ] {
        let kind = *kinds().get(kind).unwrap();
        let before = all.iter().filter(|(name, _)| !kind.adds.contains(name));
        let fields: Vec<Field> =
            before.map(|(name, ty)| Field::new(*name, ty.clone(), true)).collect();
        let table = Arc::new(Schema::new(fields));
        let mut problems = Vec::new();
        let typed = coerce(kind.params, &yaml::parse(given).unwrap(), "`kind`", &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let columns = |input: &str| (input == "data").then(|| table.clone());
        let inputs: Vec<String> = typed.references.iter().map(|r| r.path.clone()).collect();
        let mut problems = Vec::new();
        let check = Check {
            params: &typed.values,
            columns: &columns,
            inputs: &inputs,
            models: &|_| None,
            served: &|_| None,
        };
        let made = (kind.check)(&check, &mut problems).expect("the columns are known");
        assert!(problems.is_empty(), "{}: {problems:?}", kind.name);
        let new: Vec<&str> = made.fields().iter().map(|f| f.name().as_str()).collect();
        let new = new.into_iter().filter(|name| table.field_with_name(name).is_err());
        let (mut new, mut named) = (new.collect::<Vec<_>>(), kind.adds.to_vec());
        // The columns that a parameter brings: `of: turns`, `embed: true`.
        named.retain(|name| !["response_mask", "embedding"].contains(name));
        new.sort_unstable();
        named.sort_unstable();
        assert_eq!(new, named, "{}", kind.name);
    }
}
