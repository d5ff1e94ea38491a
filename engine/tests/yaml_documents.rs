//! Two hundred documents and more against both YAML parsers: the span-keeping tree of workflows and `serde_yaml`.
//!
//! Each document is the same JSON value for both, or both refuse it. Where the language refuses on purpose, or reads a
//! word otherwise, the document stands in a list of its own with the reason.

// Helpers of tests may unwrap as the tests themselves do.
#![allow(clippy::unwrap_used)]

use refrain_engine::language::yaml;
use serde_json::Value;

fn ours(text: &str) -> Result<Value, String> {
    yaml::parse(text).map(|node| node.to_json()).map_err(|problem| problem.message)
}

fn theirs(text: &str) -> Result<Value, String> {
    serde_yaml::from_str::<serde_yaml::Value>(text).map_err(|e| e.to_string()).and_then(to_json)
}

/// As the tree of workflows becomes JSON: a float that is not finite has no JSON and is a word.
fn to_json(value: serde_yaml::Value) -> Result<Value, String> {
    Ok(match value {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(b) => Value::Bool(b),
        serde_yaml::Value::Number(n) => match n.as_i64() {
            Some(i) => i.into(),
            None => match n.as_f64() {
                Some(f) if f.is_nan() => "nan".into(),
                Some(f) if f.is_infinite() => (if f > 0.0 { "inf" } else { "-inf" }).into(),
                other => other.into(),
            },
        },
        serde_yaml::Value::String(text) => Value::String(text),
        serde_yaml::Value::Sequence(items) => {
            Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?)
        }
        serde_yaml::Value::Mapping(entries) => {
            let entry = |(key, value)| Ok((key_text(key)?, to_json(value)?));
            Value::Object(entries.into_iter().map(entry).collect::<Result<_, String>>()?)
        }
        serde_yaml::Value::Tagged(tagged) => return Err(format!("the tag {}", tagged.tag)),
    })
}

fn key_text(key: serde_yaml::Value) -> Result<String, String> {
    match key {
        serde_yaml::Value::String(text) => Ok(text),
        serde_yaml::Value::Number(number) => Ok(number.to_string()),
        serde_yaml::Value::Bool(flag) => Ok(flag.to_string()),
        serde_yaml::Value::Null => Ok("null".into()),
        _ => Err("a key must be text".into()),
    }
}

/// Plain scalars: words and numbers in all spellings that look like one.
const SCALARS: &str = "
null Null NULL ~ nul nULL true True TRUE tRUE false False FALSE yes Yes no No NO on On off Off y n Y N
0 -0 +0 1 +1 -1 42 007 010 -012 0o10 0o7 0O7 0o8 -0o7 0x1F 0xff 0XFF -0x1f +0x1f 0xG 0b11 0b2 1_000 0x_1 1,000 1.000,5
1.0 1. .5 -.5 +.5 -1. 00.5 1.50 1e3 1E3 1e+3 1e-3 1.5e3 .1e1 1.e1 1e 1e+ e1 .e1 1e3.5 1e400 -1e400 5e-324 1e-400 1__0
0.1 3.141592653589793 1.7976931348623157e308 2.2250738585072014e-308 123456789.123456789 1e22 1e23
9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615
18446744073709551616 123456789012345678901234567890 9007199254740993 9007199254740993.0
.inf -.inf +.inf .Inf .INF .iNF inf Infinity -inf .nan .NaN .NAN .nAN nan NaN -.nan
. .. ... -- --- + - 1.2.3 12:30 12:30:45 2001-12-14 2001-12-14T21:59:43Z 1-2 1+2 0x 0o -x +x .x a.b a/b a=b =
word two&words w*ild ex!claim p%cent c@t b`tick tilde~ que?stion ~x a#b a:b ${x} $x {x [x ]x }x |x >x &x *x !x %x @x `x \"x 'x ?x :x -x ,x
";

/// Whole documents: structure, quoting, blocks, anchors, comments, characters.
const DOCUMENTS: &[&str] = &[
    // Flow and block, nested in each other.
    "[]",
    "{}",
    "[1, [2, [3, []]]]",
    "{a: {b: {c: {}}}}",
    "a: [1, 2,\n  3]\n",
    "a: {b: 1,\n  c: 2}\n",
    "a: [1, 2,]\n",
    "a: {b: 1,}\n",
    "- a\n- b\n",
    "- - a\n  - b\n- - c\n",
    "- a: 1\n  b: 2\n- a: 3\n",
    "a:\n- 1\n- 2\n",
    "a:\n  - 1\n  - 2\nb: 3\n",
    "a:\n  b:\n    c: 1\n  d: 2\n",
    "a: {b: [1, {c: d}], e: []}\n",
    "- [a, b]\n- {c: d}\n- e\n",
    "a:\nb:\n",
    "a: \nb: ~\n",
    "-\n- \n- a\n",
    "[a, , b]",
    "{a: 1, b}",
    "{a, b: 2}",
    "[a: 1, b: 2]",
    "{\"a\":1}",
    "{\"a\": 1, 'b': 2}",
    "? a\n: 1\n",
    "? a\n? b\n",
    "a: b: c\n",
    "a: 1\n b: 2\n",
    "a:\n  b: 1\n c: 2\n",
    "[1, 2\n",
    "{a: 1\n",
    "a: ]\n",
    "a: }\n",
    "- a\nb: 1\n",
    "a: 1\n- b\n",
    "\ta: 1\n",
    "a:\n\tb: 1\n",
    "a: 1\t# tab\n",
    "1: one\n2.5: two\n",
    "? [a]\n: 1\n",
    "{[a]: 1}",
    "{{a: b}: 1}",
    // Quotes.
    "a: 'single'\n",
    "a: 'it''s'\n",
    "a: ''\n",
    "a: \"\"\n",
    "a: \"tab\\tline\\nquote\\\"back\\\\slash\\/\"\n",
    "a: \"\\x41\\u00e9\\U0001F600\"\n",
    "a: \"\\0\\a\\b\\e\\v\\f\\r\\N\\_\\L\\P\"\n",
    "a: \"\\q\"\n",
    "a: \"\\ud83d\"\n",
    "a: 'no \\n escape'\n",
    "a: \"first\n  second\n\n  third\"\n",
    "a: 'first\n  second\n\n  third'\n",
    "a: \"kept \\\n  together\"\n",
    "a: first\n  second\n\n  third\n",
    "a: 'open\n",
    "a: \"open\n",
    "a: '1'\nb: \"true\"\nc: 'null'\n",
    "a: 'x' y\n",
    "'quoted key': 1\n\"another\\tkey\": 2\n",
    "a: \"# no comment\"\nb: '# none'\n",
    // Comments and white space.
    "# only\na: 1 # trailing\n# last\n",
    "a: 1#no comment\n",
    "a: x #\n",
    "\n\n\na: 1\n\n\n",
    "   a: 1\n",
    "a:    1   \n",
    "a : 1\n",
    "a:1\n",
    "a: 1\r\nb: 2\r\n",
    "a: |\r\n  x\r\n  y\r\n",
    "a: 1\rb: 2\r",
    "---\na: 1\n",
    "--- a\n",
    "---\na: 1\n...\n",
    "--- # comment\na: 1\n",
    "%YAML 1.2\n---\na: 1\n",
    "\u{feff}a: 1\n",
    // Anchors and aliases.
    "a: &x 1\nb: *x\n",
    "a: &x [1, 2]\nb: [*x, *x]\n",
    "a: &x {c: 1}\nb: *x\n",
    "- &x a\n- *x\n",
    "a: &x\nb: *x\n",
    "a: &x 1\nb: &x 2\nc: *x\n",
    "a: *x\n",
    "&k a: 1\nb: 2\n",
    "a: &x 'text'\nb: *x\n",
    // Characters.
    "ü: é\n",
    "名前: 値\n",
    "a: 😀\n",
    "😀: [ä, ö]\n",
    "a: \u{a0}b\n",
    "a: x\u{2028}y\n",
    "a: \u{85}\n",
    "a: \u{7}\n",
    "a: \u{0}\n",
    "a: \u{7f}\n",
    "a: \u{200b}\n",
    "a: \u{e000}\n",
    // Text that means something elsewhere in a workflow.
    "a: \"${x}\"\n",
    "a: ${x}\n",
    "a: x${y}z\n",
    "a: $${x}\n",
    "path: ../models/base\n",
    "rows: 0..2000\n",
    "command: [python3, tool.py, --flag, '${in.rows}']\n",
    "e: { stage: target, at: { arm: masked }, value: 0.61, within: 0.02, source: \"arXiv 2501.14315\" }\n",
    "learning_rate: 2e-4\n",
    "regex: 'answer is (\\S+)'\n",
    "regex: \"\\\\d+\"\n",
    "a: key=value\n",
    "a: -1 - 2\n",
    "a: 1 2 3\n",
    "a: !x\n",
    "a: @x\n",
    "a: `x`\n",
    "a: %x\n",
    "a: ,x\n",
    "[%x]",
    "- -1\n- - 1\n",
    "a: |-\n  one",
    "a: |\n  one",
    "a: >+\n  one",
    "a: http://example.org:80/x?y=z#w\n",
];

/// Block scalars: style, indentation indicator, chomping indicator, body.
fn blocks() -> Vec<String> {
    let bodies = [
        "  one\n  two\n",
        "  one\n\n   two\n\n\n",
        "\n  one\n",
        "",
        "  # text\n  one\n",
        "    one\n  two\n",
    ];
    let mut documents = Vec::new();
    for style in ["|", ">"] {
        for indentation in ["", "2", "1"] {
            for chomping in ["", "-", "+"] {
                for body in bodies {
                    documents.push(format!("a: {style}{indentation}{chomping}\n{body}"));
                    documents
                        .push(format!("a: {style}{chomping}{indentation} # comment\n{body}b: 1\n"));
                }
            }
        }
    }
    documents
}

fn documents() -> Vec<String> {
    let scalars = SCALARS.split_whitespace();
    let mut documents: Vec<String> =
        scalars.flat_map(|s| [format!("a: {s}\n"), format!("[{s}, {s}]\n")]).collect();
    documents.extend(DOCUMENTS.iter().map(|d| d.to_string()));
    documents.extend(blocks());
    documents
}

#[test]
fn both_parsers_read_the_same_values_or_refuse() {
    let documents = documents();
    assert!(documents.len() > 200, "{} documents", documents.len());
    let differ: Vec<String> = documents
        .iter()
        .filter(|document| !ELSEWHERE.iter().any(|(d, _)| d == document))
        .filter_map(|document| match (ours(document), theirs(document)) {
            (Ok(a), Ok(b)) if a == b => None,
            (Err(_), Err(_)) => None,
            (a, b) => Some(format!("{document:?}\n  ours:   {a:?}\n  theirs: {b:?}")),
        })
        .collect();
    assert!(differ.is_empty(), "{} of {}:\n{}", differ.len(), documents.len(), differ.join("\n"));
}

/// What the two read differently, and why that is right.
const ELSEWHERE: &[(&str, &str)] = &[
    ("[-, -]\n", "`-` before a flow indicator begins no plain scalar in YAML 1.2"),
    ("[?x, ?x]\n", "`?x` is a plain scalar in YAML 1.2"),
    ("[:x, :x]\n", "`:x` is a plain scalar in YAML 1.2"),
    ("[|x, |x]\n", "our parser is lenient: nothing else could be meant"),
    ("[>x, >x]\n", "our parser is lenient: nothing else could be meant"),
    ("\ta: 1\n", "our parser is lenient: a tab before the first key indents nothing"),
    ("a: x\u{2028}y\n", "YAML 1.2 breaks lines at line feeds and carriage returns alone"),
    ("a: \u{85}\n", "YAML 1.2 breaks lines at line feeds and carriage returns alone"),
    ("a: |\n  one", "a last line without a line feed reads like one with it"),
    ("a: >+\n  one", "a last line without a line feed reads like one with it"),
];

#[test]
fn the_differences_are_still_there() {
    for (document, reason) in ELSEWHERE {
        assert_ne!(
            ours(document).ok(),
            theirs(document).ok(),
            "{document:?} no longer differs: {reason}"
        );
    }
}

#[test]
fn what_the_language_leaves_out_is_refused_by_ours_alone() {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    for (document, words) in [
        ("a: &x {b: 1}\nc:\n  <<: *x\n  d: 2\n".to_string(), "merge keys"),
        ("a: !!str 1\n".into(), "tags"),
        (deep(65), "deeper than 64"),
    ] {
        assert!(ours(&document).unwrap_err().contains(words), "{document:?}");
        assert!(theirs(&document).is_ok(), "{document:?}");
    }
    assert!(ours(&deep(64)).is_ok());
    // Both refuse these, ours with the place.
    for (document, words) in [
        ("a: 1\na: 2\n", "duplicate key `a`"),
        ("{a: 1, b: 2, a: 3}\n", "duplicate key `a`"),
        ("a: 1\n---\nb: 2\n", "one YAML document"),
        ("a: !custom 1\n", "tags"),
        ("", "is empty"),
    ] {
        assert!(ours(document).unwrap_err().contains(words), "{document:?}");
        assert!(document.is_empty() || theirs(document).is_err(), "{document:?}");
    }
}
