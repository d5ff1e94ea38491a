//! The memory that stages with a model need, told from their shapes before anything is loaded.

use crate::space::{Space, small};

const WORKFLOW: &str = r#"refrain: 1
data: { train: { path: train.jsonl } }
stages:
  base:
    finetune:
      data: train
      full: true
      from:
        config: { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 128 }
        tokenizer: { vocab_size: 280 }
      steps: 2
      batch_size: 4
  scored:
    score: { model: base, data: train }
  sampled:
    generate: { model: base, data: train, max_new_tokens: 4 }
  tuned:
    finetune: { model: base, data: train, lora: { rank: 4 }, steps: 2, batch_size: 4 }
"#;

#[test]
fn what_cannot_fit_is_refused_with_figures_before_it_begins() {
    let space = Space::new();
    small(&space);
    space.write("w.yaml", WORKFLOW);
    let few = ["run", "w.yaml", "--quiet", "--memory", "1MB", "--keep-going"];

    let said = space.fails(&few);
    assert!(said.starts_with("exit code 4"), "{said}");
    assert!(said.contains(" MB of memory (0.0 MB of weights, "), "{said}");
    assert!(said.contains("`--memory SIZE`"), "{said}");

    space.ran("w.yaml", &["--only", "base"]);
    let said = space.fails(&few);
    for stage in ["scored", "sampled", "tuned"] {
        assert!(said.contains(&format!("stage `{stage}`")), "{stage}: {said}");
    }

    // Whoever declares it knows better.
    space.write(
        "w.yaml",
        &WORKFLOW.replace("  scored:\n", "  scored:\n    resources: { memory: 2MB }\n"),
    );
    space.ran("w.yaml", &["--only", "scored", "--memory", "1MB"]);
    space.ran("w.yaml", &[]);
}
