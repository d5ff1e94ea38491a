//! The kinds of a random workflow.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;

use refrain_cache::{ArtifactKind, TableReader};
use refrain_engine::kind::{
    Context, Input, Kind, Kinds, MAIN, NodeResult, OutputDecl, Param, StageError, Type,
};

use super::DURING;
use crate::kind::kind;

const INPUTS: Param = Param::default(
    "inputs",
    Type::Map(&Type::Reference(Some(ArtifactKind::Table))),
    "{}",
    "Tables",
);
const WHOLE: Type = Type::Int { min: 0, max: i64::MAX };

pub(super) fn kinds() -> Kinds {
    let kind = |name, params, run| Kind {
        params,
        outputs: |_| vec![OutputDecl { name: MAIN.into(), kind: ArtifactKind::Table }],
        metrics: &[],
        close_elsewhere: false,
        ..kind(name, run)
    };
    static MIX: &[Param] = &[
        INPUTS,
        Param::required("salt", WHOLE, "Added"),
        Param::required("modulus", WHOLE, "Divides"),
    ];
    static BREAKS: &[Param] = &[INPUTS];
    static MODEL: &[Param] =
        &[Param::required("model", Type::Reference(Some(ArtifactKind::Model)), "A model")];
    let adapter = |_: &_| vec![OutputDecl { name: MAIN.into(), kind: ArtifactKind::Model }];
    Kinds::new(vec![
        kind("mix", MIX, mix),
        Kind { outputs: adapter, ..kind("train", MODEL, train) },
        kind("apply", MODEL, apply),
        kind("breaks", BREAKS, |_| Err(StageError::failed("it fails as it was told"))),
    ])
}

/// An adapter, the same for every model.
fn train(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let folder = context.cache.new_folder()?;
    folder.write("adapter_config.json", b"{}").unwrap();
    folder.write("adapter_model.safetensors", b"weights").unwrap();
    let base = context.input("model")?.artifact().digest;
    Ok(NodeResult::main(context.cache.store_folder(folder, ArtifactKind::Model, Some(base))?))
}

/// One row with the value of the base model of an adapter.
fn apply(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let Input::Model { folder, adapters, .. } = context.input("model")? else { panic!("no model") };
    assert_eq!(adapters.len(), 1);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    table(context, config["value"].as_i64().unwrap())
}

/// One row: the sum of all values of all inputs, each input by its place, and the salt; small, so
/// that other inputs often make the same.
fn mix(context: &Context<'_>) -> Result<NodeResult, StageError> {
    if let Some((path, rows)) = DURING.lock().unwrap().take() {
        std::fs::write(path, rows).unwrap();
    }
    let number = |name: &str| context.params[name].as_i64().unwrap();
    let mut sum = number("salt");
    for (path, input) in context.inputs {
        let place: i64 = path.strip_prefix("inputs.i").unwrap().parse().unwrap();
        let batch = TableReader::open(input.path())?.read_all(Some(&["value"]))?;
        let values: &Int64Array = batch.column(0).as_primitive::<Int64Type>();
        sum += (place + 1) * values.values().iter().sum::<i64>();
    }
    table(context, sum % number("modulus"))
}

fn table(context: &Context<'_>, value: i64) -> Result<NodeResult, StageError> {
    let value = Int64Array::from(vec![value]);
    let batch = RecordBatch::try_from_iter([("value", Arc::new(value) as _)]).unwrap();
    let mut table = context.cache.new_table(batch.schema())?;
    table.write(&batch)?;
    Ok(NodeResult::main(context.cache.store_table(table)?))
}
