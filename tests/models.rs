//! `show` of a model: its card, of a workflow's node and of any folder.

use serde_json::{Value, json};

use crate::space::{Space, small};

fn card(space: &Space, arguments: &[&str]) -> Value {
    let said = space.run(&[&["show"], arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).unwrap()
}

/// A Llama of one layer with an embedding and a head of its own.
fn parameters(vocabulary: u64) -> u64 {
    let (hidden, intermediate) = (16, 32);
    2 * vocabulary * hidden + 4 * hidden * hidden + 3 * hidden * intermediate + 3 * hidden
}

#[test]
fn a_model_and_an_adapter_have_cards() {
    let space = Space::new();
    small(&space);
    space.report("w.yaml", &["--only", "base", "tuned"]);
    let base = card(&space, &["w.yaml", "base"]);
    let model = &base["model"];
    let vocabulary = model["vocabulary"].as_u64().unwrap();
    assert_eq!(model["family"], "llama");
    assert_eq!(model["parameters"], parameters(vocabulary));
    assert_eq!(model["dtypes"], json!(["f32"]));
    assert_eq!(model["context"], 128);
    assert_eq!(model["tokenizer"]["kind"], "BPE");
    assert_eq!(model["tokenizer"]["size"], vocabulary);
    assert_eq!(model["adapter"], Value::Null);
    assert_eq!(
        (&base["made"]["node"], &base["made"]["kind"]),
        (&json!("base"), &json!("finetune"))
    );
    assert_eq!(base["made"]["manifest"]["parameters"]["steps"], 20);

    let tuned = card(&space, &["w.yaml", "tuned[threshold=40]"]);
    let adapter = &tuned["model"]["adapter"];
    assert_eq!((&adapter["rank"], &adapter["alpha"]), (&json!(2), &json!(4.0)));
    assert_eq!(adapter["base"], "base");
    assert_eq!(adapter["targets"].as_array().unwrap().len(), 7);
    // Seven linear layers of one layer: (inputs + outputs) * rank each.
    assert_eq!(adapter["parameters"], 2 * (4 * (16 + 16) + 3 * (16 + 32)));
    assert_eq!(tuned["model"]["parameters"], model["parameters"], "the base's");
    assert_ne!(tuned["model"]["digest"], model["digest"]);

    let human = space.run(&["show", "w.yaml", "tuned[threshold=40]"]).stdout;
    for words in [
        "family      llama",
        "LoRA, rank 2, alpha 4",
        "base        base",
        "made by     `tuned[threshold=40]`",
    ] {
        assert!(human.contains(words), "`{words}` in {human}");
    }

    let folder = space.run(&["show", "w.yaml", "base", "--path"]).stdout;
    let outside = card(&space, &[folder.trim()]);
    assert_eq!(outside["made"], Value::Null);
    for fact in ["digest", "family", "parameters", "context", "tokenizer"] {
        assert_eq!(outside["model"][fact], model[fact], "{fact}");
    }
    let folder = space.run(&["show", "w.yaml", "tuned[threshold=40]", "--path"]).stdout;
    let alone = card(&space, &[folder.trim()]);
    assert_eq!(
        (&alone["model"]["family"], &alone["model"]["adapter"]["rank"]),
        (&Value::Null, &json!(2))
    );
    assert_eq!(alone["model"]["digest"], tuned["model"]["digest"]);
}

#[test]
fn what_is_no_model_is_said() {
    let space = Space::new();
    small(&space);
    std::fs::create_dir(space.path("empty")).unwrap();
    for (arguments, words) in [
        (&["show", "empty"][..], "config.json"),
        (&["show", "w.yaml"], "no node of it is named"),
        (&["show", "empty", "base"], "is a folder, not a workflow"),
        (&["show", "w.yaml", "base"], "the cache does not hold `base`"),
    ] {
        let said = space.run(arguments);
        assert_eq!(said.code, 2, "{}", said.stderr);
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
}
