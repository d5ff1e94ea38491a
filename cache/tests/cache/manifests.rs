//! Keys: equal for equal values, different for different ones, and explained by the differences.

use proptest::prelude::*;
use refrain_cache::{Key, Manifest};
use serde_json::{Map, Value, json};

fn manifest(parameters: Value) -> Manifest {
    Manifest::new("score").section("parameters", parameters)
}

fn paths(before: &Manifest, after: &Manifest) -> Vec<String> {
    before.differences(after).into_iter().map(|difference| difference.path).collect()
}

fn parsed(json: &str) -> Manifest {
    manifest(serde_json::from_str(json).unwrap())
}

#[test]
fn the_key_is_the_digest_of_the_documented_encoding() {
    let mut bytes = b"refrain key 1".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(b'.');
    text(&mut bytes, "kind");
    bytes.push(b's');
    text(&mut bytes, "mask");
    bytes.extend(2_u64.to_le_bytes());
    bytes.push(b'.');
    text(&mut bytes, "list");
    bytes.push(b'[');
    bytes.extend(0_u64.to_le_bytes());
    bytes.push(b'i');
    bytes.extend(7_i128.to_le_bytes());
    let manifest = Manifest::new("mask").section("list", json!([7]));
    assert_eq!(manifest.key().to_string(), blake3::hash(&bytes).to_hex().as_str());
}

/// Keys stand in committed locks: another digest here means that every lock in the world is stale.
#[test]
fn the_key_of_this_manifest_never_changes() {
    let manifest =
        Manifest::new("score").section("versions", json!({"score": 1, "lm": 3})).section(
            "parameters",
            json!({"of": "text", "window": null, "chat": true, "x": [1.5, -2, 1e300, [], {}]}),
        );
    let golden: Key =
        "e8d7052b9da40351fc25650ce81db5a042c45939ecda5881ecaf55df8509d96f".parse().unwrap();
    assert_eq!(manifest.key(), golden);
}

#[test]
fn numbers_count_by_value() {
    for group in [
        &["1", "1.0", "1e0", "10e-1"][..],
        &["0", "-0", "-0.0", "0e7"],
        &["-3", "-3.0"],
        &["1e15", "1000000000000000"],
        &["18446744073709549568", "1.8446744073709549568e19"],
        &["100000000000000000000", "1e20"],
        &["0.1", "1e-1", "0.10"],
    ] {
        let first = parsed(group[0]);
        for other in group {
            assert_eq!(parsed(other).key(), first.key(), "{other} is {}", group[0]);
            assert_eq!(paths(&first, &parsed(other)), Vec::<String>::new());
        }
    }
    assert_ne!(parsed("9007199254740993").key(), parsed("9007199254740992").key());
    assert_ne!(parsed("18446744073709551615").key(), parsed("-1").key());
    assert_ne!(parsed("0.1").key(), parsed("0.10000000000000002").key());
}

#[test]
fn values_that_look_alike_have_different_keys() {
    let texts = [
        "null",
        "false",
        "true",
        "0",
        "1",
        "\"\"",
        "\"1\"",
        "\"null\"",
        "[]",
        "{}",
        "[null]",
        "[[]]",
        "[1,2]",
        "[2,1]",
        "[[1],2]",
        "[[1,2]]",
        "{\"0\":1}",
        "[1]",
        "{\"a\":{}}",
        "{\"a\":1,\"b\":2}",
        "{\"a\":{\"b\":2}}",
        "{\"a.b\":2}",
        "{\"a\":\"bc\"}",
        "{\"ab\":\"c\"}",
        "{\"\":1}",
        "1.5",
    ];
    for (i, a) in texts.iter().enumerate() {
        for b in &texts[i + 1..] {
            assert_ne!(parsed(a).key(), parsed(b).key(), "{a} and {b}");
            assert!(!paths(&parsed(a), &parsed(b)).is_empty(), "{a} and {b}");
        }
    }
}

#[test]
fn differences_name_the_path_and_both_values() {
    let before = manifest(
        json!({"threshold": 2.5, "mix": [{"share": 0.5}], "old": 1, "same": "x", "a.b": 1}),
    );
    let after = manifest(
        json!({"same": "x", "threshold": 3, "mix": [{"share": 0.5}, {"share": 1}], "new": [], "a.b": 2}),
    );
    let found: Vec<(String, Option<Value>, Option<Value>)> =
        before.differences(&after).into_iter().map(|d| (d.path, d.before, d.after)).collect();
    let expected = [
        ("parameters.\"a.b\"", Some(json!(1)), Some(json!(2))),
        ("parameters.mix[1].share", None, Some(json!(1))),
        ("parameters.new", None, Some(json!([]))),
        ("parameters.old", Some(json!(1)), None),
        ("parameters.threshold", Some(json!(2.5)), Some(json!(3))),
    ];
    assert_eq!(found, expected.map(|(path, before, after)| (path.to_owned(), before, after)));
}

/// Values as deep and as wide as parameters are.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("JSON has no such number", |x| x.is_finite())
            .prop_map(Value::from),
        "[a-c.]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c.]{0,2}", inner), 0..4)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// The same value with the entries of every map in reverse order.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(reversed).collect()),
        Value::Object(map) => Value::Object(
            map.iter().rev().map(|(k, v)| (k.clone(), reversed(v))).collect::<Map<_, _>>(),
        ),
        leaf => leaf.clone(),
    }
}

/// The value with its `n`-th leaf replaced by a text that it cannot hold.
fn changed(value: &Value, n: &mut usize) -> Value {
    match value {
        Value::Array(items) if !items.is_empty() => {
            Value::Array(items.iter().map(|v| changed(v, n)).collect())
        }
        Value::Object(map) if !map.is_empty() => {
            Value::Object(map.iter().map(|(k, v)| (k.clone(), changed(v, n))).collect())
        }
        leaf => {
            let hit = *n == 0;
            *n = n.wrapping_sub(1);
            if hit { Value::from("changed") } else { leaf.clone() }
        }
    }
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(leaves).sum(),
        Value::Object(map) if !map.is_empty() => map.values().map(leaves).sum(),
        _ => 1,
    }
}

proptest! {
    #[test]
    fn the_order_of_map_entries_means_nothing(value in any_value()) {
        let (here, there) = (manifest(value.clone()), manifest(reversed(&value)));
        prop_assert_eq!(here.key(), there.key());
        prop_assert!(here.differences(&there).is_empty());
    }

    #[test]
    fn a_changed_leaf_is_another_key_and_one_difference(value in any_value(), pick in any::<prop::sample::Index>()) {
        let mut position = pick.index(leaves(&value));
        let (here, there) = (manifest(value.clone()), manifest(changed(&value, &mut position)));
        prop_assert_ne!(here.key(), there.key());
        prop_assert_eq!(here.differences(&there).len(), 1);
    }

    #[test]
    fn keys_are_equal_exactly_when_nothing_differs(a in any_value(), b in any_value()) {
        let (a, b) = (manifest(a), manifest(b));
        prop_assert_eq!(a.key() == b.key(), a.differences(&b).is_empty());
    }

    #[test]
    fn a_manifest_survives_json(value in any_value()) {
        let here = manifest(value);
        let text = serde_json::to_string(&here).unwrap();
        prop_assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap().key(), here.key());
    }
}
