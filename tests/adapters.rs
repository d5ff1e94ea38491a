//! Adapters made elsewhere, named with their bases as models.

use crate::space::{Space, small};

/// Copies the model that a node made to a folder of the space.
fn copy_model(space: &Space, node: &str, to: &str) {
    let from = space.run(&["show", "w.yaml", node, "--path"]).stdout;
    std::fs::create_dir(space.path(to)).unwrap();
    for entry in std::fs::read_dir(space.path(from.trim())).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        std::fs::write(space.path(to).join(entry.file_name()), bytes).unwrap();
    }
}

/// A space with the folders `base` and `adapter`, and the workflow that made them.
fn trained() -> Space {
    let space = Space::new();
    small(&space);
    let stages = "  seen: { score: { model: tuned, data: train } }\nsweep:\n";
    space.edit("w.yaml", "sweep:\n", stages);
    space.report("w.yaml", &["--only", "seen[threshold=1000]"]);
    copy_model(&space, "base", "base");
    copy_model(&space, "tuned[threshold=1000]", "adapter");
    space
}

fn elsewhere(models: &str) -> String {
    format!(
        "refrain: 1\nmodels: {models}\ndata: {{ train: {{ path: train.jsonl }} }}\n\
         stages: {{ seen: {{ score: {{ model: tuned, data: train }} }} }}\n"
    )
}

/// A key is made of the adapter's digest and its base's, so that nothing is computed again.
#[test]
fn an_adapter_with_its_base_is_the_model_that_finetune_made() {
    let space = trained();
    let given = "{ ours: { path: base }, tuned: { path: adapter, base: ours } }";
    space.write("e.yaml", &elsewhere(given));
    let here = space.digests("w.yaml", &["--only", "seen[threshold=1000]"]);
    let there = space.digests("e.yaml", &[]);
    assert_eq!(here["seen[threshold=1000]"], there["seen"]);
    assert_eq!(space.ran("e.yaml", &[]).len(), 0);
    // Computed again, from the folders, it is the same.
    let fresh = space.digests("e.yaml", &["--cache", "fresh"]);
    assert_eq!(fresh["seen"], there["seen"]);
    let verified = space.run(&["verify", "e.yaml"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);

    // The one other model is the base of an adapter that names none.
    space.edit("e.yaml", ", base: ours }", " }");
    assert!(space.ran("e.yaml", &[]).is_empty());
    // A path that the sweep or the command line may change is no base to guess.
    space.edit("e.yaml", "ours: { path: base }", "ours: { path: \"${m}\" }");
    space.edit("e.yaml", "refrain: 1\n", "refrain: 1\nparams: { m: base }\n");
    let said = space.fails(&["run", "e.yaml"]);
    assert!(said.contains("is an adapter without the model"), "{said}");
    space.edit("e.yaml", "params: { m: base }\n", "");
    space.edit("e.yaml", "ours: { path: \"${m}\" }", "ours: { path: base }");
    space.edit("e.yaml", "path: adapter }", "path: adapter, base: ours }");

    // Another base is another model, whose rows are computed.
    std::fs::create_dir(space.path("other")).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(space.path("base").join(file), space.path("other").join(file)).unwrap();
    }
    space.edit("other/config.json", "\"rms_norm_eps\": 1e-6", "\"rms_norm_eps\": 1e-5");
    space.edit("e.yaml", "ours: { path: base }", "ours: { path: other }");
    assert_eq!(space.ran("e.yaml", &[]).len(), 1);
    assert_ne!(space.digests("e.yaml", &[])["seen"], there["seen"]);
}

#[test]
fn an_adapter_that_cannot_be_used_says_what_to_write() {
    let space = trained();
    let refused = |models: &str, wanted: &[&str]| {
        space.write("e.yaml", &elsewhere(models));
        let said = space.run(&["run", "e.yaml", "--quiet"]);
        assert_ne!(said.code, 0);
        for words in wanted {
            assert!(said.stderr.contains(words), "`{words}` in {}", said.stderr);
        }
    };
    refused("{ tuned: { path: adapter } }", &["is an adapter", "base: NAME"]);
    refused(
        "{ ours: { path: base }, tuned: { path: base, base: ours } }",
        &["e.yaml:2:", "has a `base`, but is not an adapter"],
    );
    refused("{ tuned: { path: adapter, base: train } }", &["e.yaml:2:", "must be a model"]);
    refused("{ tuned: { path: adapter, base: tuned } }", &["e.yaml:2:", "tuned"]);
}

#[test]
fn a_name_of_the_hub_is_told_from_a_path() {
    let space = Space::new();
    space.write("train.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    space.write("e.yaml", &elsewhere("{ tuned: { path: Qwen/Qwen2.5-0.5B } }"));
    let said = space.fails(&["check", "e.yaml"]);
    assert!(said.contains("hub: Qwen/Qwen2.5-0.5B"), "{said}");
}

/// A command makes an adapter of a model that it is given, and names it.
#[test]
fn a_command_may_make_an_adapter() {
    let space = trained();
    space.write(
        "e.yaml",
        "refrain: 1\nmodels: { ours: { path: base }, theirs: { path: adapter, base: ours } }\n\
         data: { train: { path: train.jsonl } }\nstages:\n  \
         made: { run: { command: [cp, -r, \"${in.adapter}\", \"${out.tuned}\"], \
         inputs: { base: ours, adapter: theirs }, outputs: { tuned: model }, bases: { tuned: base } } }\n  \
         seen: { score: { model: made, data: train } }\n  \
         there: { score: { model: theirs, data: train } }\n",
    );
    let digests = space.digests("e.yaml", &[]);
    assert_eq!(digests["seen"]["main"]["digest"], digests["there"]["main"]["digest"]);
    assert!(digests["made"]["tuned"]["base"].is_string(), "{}", digests["made"]);
    assert!(space.ran("e.yaml", &[]).is_empty());
    let verified = space.run(&["verify", "e.yaml", "--recompute", "all"]);
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);

    for (bases, expected) in [
        (", bases: { other: base }", "`other` is not an output of the type `model`"),
        (", bases: { tuned: missing }", "there is no input `missing`"),
    ] {
        let text = space.read("e.yaml");
        space.edit("e.yaml", ", bases: { tuned: base }", bases);
        let said = space.fails(&["check", "e.yaml"]);
        assert!(said.contains(expected), "{said}");
        space.write("e.yaml", &text);
    }
    space.edit("e.yaml", ", bases: { tuned: base }", "");
    let said = space.fails(&["run", "e.yaml"]);
    assert!(said.contains("for an adapter name its model: `bases: { OUTPUT: INPUT }`"), "{said}");
}
