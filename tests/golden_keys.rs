//! A golden list of manifests: of workflows as they were written for the first release.
//!
//! A key is the hash of its manifest. A parameter that is added later must not enter a manifest of
//! this list; component versions, which are raised where bytes change, are left out.
//!
//! The list was taken from the first release. Six nodes of it write out a default (`alpha: 32` at rank
//! 16, `chat: false` where the tokenizer has no template, `full: true` beside `from`) and have since
//! had the manifest of the same stage without it.

use serde_json::{Value, json};

use crate::space::Space;

const WORKFLOW: &str = include_str!("golden_keys/workflow.yaml");
const MANIFESTS: &str = include_str!("golden_keys/manifests.jsonl");

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2,
    "vocab_size": 32, "num_hidden_layers": 1, "intermediate_size": 16}"#;
const SCORED: &str = r#"{"id": "r0", "prompt": "p", "response": "r", "reference": "r",
    "correct": true, "perplexity": 1.5, "text": "p r", "token_ids": [1, 2], "logprobs": [null, -0.5],
    "offsets": [0, 1], "prompt_tokens": 1}"#;

fn space() -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    let row =
        |i| format!("{{\"id\": \"r{i}\", \"prompt\": \"p{i}\", \"response\": \"a b {i}\"}}\n");
    space.write("rows.jsonl", &(0..3).map(row).collect::<String>());
    space.write("scored.jsonl", &format!("{}\n", SCORED.replace('\n', " ")));
    space.write("tool.py", "print(1)\n");
    space.write("model/config.json", CONFIG);
    space.write("model/model.safetensors", "");
    space.write("model/tokenizer.json", "{}");
    space
}

#[test]
fn no_key_of_an_earlier_workflow_moves() {
    let space = space();
    // The keys of what reads a table are known once it is imported.
    let said = space.run(&["run", "w.yaml", "--only", "rows", "--only", "scored", "--quiet"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    let mut moved = Vec::new();
    for line in MANIFESTS.lines() {
        let before: Value = serde_json::from_str(line).unwrap();
        let node = before["node"].as_str().unwrap();
        let said = space.run(&["explain", "w.yaml", node, "--format", "json"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        let report: Value = serde_json::from_str(&said.stdout).unwrap();
        let manifest = &report["manifest"];
        let inputs = manifest["inputs"].as_object().unwrap();
        let mut inputs: Vec<&String> = inputs.keys().collect();
        inputs.sort();
        let now = json!({
            "node": node,
            "kind": manifest["kind"],
            "parameters": manifest["parameters"],
            "inputs": inputs,
        });
        if now != before {
            moved.push(format!("before: {before}\nnow:    {now}"));
        }
    }
    assert!(moved.is_empty(), "{} keys moved:\n{}", moved.len(), moved.join("\n"));
}
