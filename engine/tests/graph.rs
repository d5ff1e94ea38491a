//! What the nodes of a stage share is shared only where it is the same.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::unwrap_used)]

#[path = "common/kind.rs"]
mod kind;

use refrain_cache::ArtifactKind;
use refrain_engine::graph::{Graph, Work};
use refrain_engine::kind::{Kind, Kinds, MAIN, OutputDecl, Param, StageError, Type};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::Workflow;

static PARAMS: &[Param] =
    &[Param::required("what", Type::Choice(&["table", "model"]), "What it makes")];

#[test]
fn outputs_that_depend_on_the_point_are_those_of_the_point() {
    let makes = Kind {
        params: PARAMS,
        outputs: |params| {
            let table = params.get("what").is_some_and(|what| what == "table");
            let kind = if table { ArtifactKind::Table } else { ArtifactKind::Model };
            vec![OutputDecl { name: MAIN.into(), kind }]
        },
        ..kind::kind("makes", |_| Err(StageError::failed("it is not run")))
    };
    let text = "refrain: 1\nstages: { a: { makes: { what: \"${what}\" } } }\nsweep: { what: [model, table] }\n";
    let source = SourceText::new("w.yaml", text);
    let graph =
        Graph::build(Workflow::parse(source, &Kinds::new(vec![makes]), &[]).unwrap()).unwrap();
    assert_eq!(graph.nodes.len(), 2);
    for node in &graph.nodes {
        let Work::Stage { params, .. } = &node.work else { panic!("`{}` is no stage", node.name) };
        let wanted = if params.get("what").is_some_and(|what| what == "table") {
            ArtifactKind::Table
        } else {
            ArtifactKind::Model
        };
        assert_eq!(node.output_kind(MAIN), Some(wanted), "{}", node.name);
    }
}

static SEEDED: &[Param] = &[
    Param::required("text", Type::Text, "A text"),
    Param::optional("seed", Type::Int { min: 0, max: 9 }, "A seed"),
];

#[test]
fn a_value_is_held_once_for_all_points_that_share_it() {
    let seeded = Kind {
        params: SEEDED,
        ..kind::kind("seeded", |_| Err(StageError::failed("it is not run")))
    };
    let text = "refrain: 1\nparams: { long: \"a long text\" }\n\
                stages: { a: { seeded: { text: \"${long}\", seed: \"${seed}\" } } }\nsweep: { seed: [1, 2, 3] }\n";
    let source = SourceText::new("w.yaml", text);
    let graph =
        Graph::build(Workflow::parse(source, &Kinds::new(vec![seeded]), &[]).unwrap()).unwrap();
    let values: Vec<_> = graph
        .nodes
        .iter()
        .map(|node| match &node.work {
            Work::Stage { params, .. } => params.get("text").unwrap(),
            _ => panic!("`{}` is no stage", node.name),
        })
        .collect();
    assert_eq!(values.len(), 3);
    assert!(values.iter().all(|value| std::ptr::eq(*value, values[0])));
}
