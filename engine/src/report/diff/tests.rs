//! Tests of the difference of two snapshots.

use refrain_cache::{Manifest, Metric};
use serde_json::json;

use super::*;

fn node(above: f64, data: &str, digest: &str, value: f64) -> SnapshotNode {
    let manifest = Manifest::new("mask")
        .section("parameters", json!({ "above": above }))
        .section("inputs", json!({ "data": digest }));
    SnapshotNode {
        key: Some(manifest.key()),
        manifest: Some(manifest),
        inputs: [("data".to_string(), BTreeSet::from([data.to_string()]))].into(),
        metrics: vec![Metric { metric: "m".into(), value, n: 1, low: None, high: None }],
    }
}

fn snapshot(nodes: [(&str, SnapshotNode); 4]) -> Snapshot {
    let nodes = nodes.into_iter().map(|(name, node)| (name.to_string(), node)).collect();
    Snapshot { nodes, comparisons: [("keeps".to_string(), 0.5)].into() }
}

#[test]
fn causes_are_told_from_what_follows_from_them() {
    let a = snapshot([
        ("changed", node(1.0, "x", "1", 1.0)),
        ("follows", node(1.0, "x", "1", 2.0)),
        ("rewired", node(3.0, "x", "1", f64::NAN)),
        ("old", node(4.0, "x", "1", 4.0)),
    ]);
    let mut b = snapshot([
        ("changed", node(1.5, "x", "1", 1.5)),
        ("follows", node(1.0, "x", "2", 2.0)),
        ("rewired", node(3.0, "y", "3", f64::NAN)),
        ("renamed", node(4.0, "x", "1", 4.0)),
    ]);
    b.comparisons.clear();
    let found = diff(&a, &b);
    let words: Vec<(&str, &str)> =
        found.nodes.iter().map(|change| (change.node.as_str(), change.what.word())).collect();
    let expected = [
        ("changed", "changed"),
        ("rewired", "changed"),
        ("renamed", "renamed"),
        ("follows", "follows"),
    ];
    assert_eq!(words, expected);
    assert_eq!(found.nodes[0].differences[0].path, "parameters.above");
    assert_eq!(found.nodes[1].inputs, [("data".into(), "x".into(), "y".into())]);
    let metrics: Vec<(&str, Option<f64>)> =
        found.metrics.iter().map(|change| (change.node.as_str(), change.after)).collect();
    assert_eq!(metrics, [("changed", Some(1.5))], "an undefined metric equals itself");
    assert_eq!(found.comparisons[0].after, None);
    assert_eq!(diff(&a, &a), Diff::default());
}

#[test]
fn without_a_record_a_change_is_unknown() {
    let a = snapshot(["a", "b", "c", "d"].map(|name| (name, node(1.0, "x", "1", 1.0))));
    let mut b = a.clone();
    let changed = SnapshotNode { manifest: None, ..node(2.0, "x", "1", 1.0) };
    b.nodes.insert("c".into(), changed);
    b.nodes.remove("d");
    b.nodes.insert("e".into(), node(7.0, "x", "1", 1.0));
    let words: Vec<(String, Change)> =
        diff(&a, &b).nodes.into_iter().map(|change| (change.node, change.what)).collect();
    let expected = [("e", Change::New), ("d", Change::Gone), ("c", Change::Unknown)];
    assert_eq!(words, expected.map(|(name, what)| (name.to_string(), what)));
}
