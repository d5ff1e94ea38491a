//! The workflows of `workflows/prompts`: each is whole, and what is published of their prompts is written to the letter.

use serde_json::{Value, json};

use crate::artifacts::{lines, shown, table, texts, truths};
use crate::code::sandbox;
use crate::space::{Space, shared};

/// Shows prompts as a model gets them, up to the template.
const RENDERS: &str = r#"
refrain: 1
data: { rows: { path: rows.jsonl } }
stages:
  base:
    finetune:
      data: rows
      full: true
      chat: false
      max_tokens: 16
      from:
        config: { hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 1, max_position_embeddings: 64 }
        tokenizer: { vocab_size: 400 }
      steps: 1
      batch_size: 1
      prompt: "a"
  scored:
    score:
      model: base
      data: rows
      chat: false
      window: { length: 64, stride: 60 }
      prompt: |-
"#;

/// The template of the first `prompt` of a workflow, indented as it is there.
fn template(workflow: &str) -> String {
    let begin = workflow.find("      prompt: |-\n").unwrap() + "      prompt: |-\n".len();
    let block = workflow[begin..].lines().take_while(|line| line.starts_with("        "));
    block.map(|line| format!("{line}\n")).collect()
}

/// Checks that the rows' prompts come out of a template as they are in the column `asked`.
fn renders(workflow: &str, rows: &[Value]) {
    let space = Space::new();
    space.write("rows.jsonl", &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    let text = format!("{RENDERS}{}", template(workflow));
    space.write("w.yaml", &text);
    space.report("w.yaml", &[]);
    let scored = table(&space, "scored");
    let written = texts(&scored, "text");
    assert_eq!(written.len(), rows.len());
    for (written, asked) in written.iter().zip(texts(&scored, "asked")) {
        let (written, asked) = (written.as_ref().unwrap(), asked.unwrap());
        assert!(written.contains(&format!("{asked}END")), "{written}\n---\n{asked}");
    }
}

#[test]
fn arc_is_asked_as_its_authors_ask_it() {
    if shared().is_none() {
        return;
    }
    let rows: Vec<Value> = lines("eval-arc/questions.jsonl")
        .into_iter()
        .map(|mut row| {
            let fields = row.as_object_mut().unwrap();
            let asked = fields.shift_remove("prompt").unwrap();
            fields.insert("asked".into(), asked);
            fields.insert("response".into(), json!("END"));
            row
        })
        .collect();
    renders(include_str!("../workflows/prompts/arc.yaml"), &rows);
}

#[test]
fn mbpp_is_asked_as_its_authors_ask_it() {
    if shared().is_none() {
        return;
    }
    let rows: Vec<Value> = lines("filter-correct/samples.jsonl")
        .into_iter()
        .map(|row| {
            let asked = row["instruction"].as_str().unwrap();
            let (_, problem) = asked.split_once(">>> Problem:\n").unwrap();
            let (text, tests) = problem.split_once("\n>>> Test Cases:\n").unwrap();
            let tests: Vec<&str> = tests.lines().collect();
            json!({ "asked": asked, "text": text, "test_list": tests, "response": "END" })
        })
        .collect();
    renders(include_str!("../workflows/prompts/mbpp.yaml"), &rows);
}

/// A model that has learnt one program by heart.
const LEARNS: &str = r#"
refrain: 1
data: { learnt: { path: learnt.jsonl } }
stages:
  model:
    finetune:
      data: learnt
      full: true
      from:
        config: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 1024 }
        tokenizer: { vocab_size: 262 }
      steps: 100
      batch_size: 2
      learning_rate: 1e-2
      seed: 1
      prompt: |-
"#;

#[test]
fn mbpp_is_judged_from_its_file() {
    let Some(sandbox) = sandbox() else { return };
    let workflow = include_str!("../workflows/prompts/mbpp.yaml");
    let space = Space::new();
    // White space parts the word `python` from the fence, which the authors' evaluator forgives.
    let program = "``` python\ndef add(a, b):\n    return a + b\n```";
    let problem = |text: &str, test: &str| json!({ "text": text, "test_list": [test], "code": "" });
    let problems = [
        problem("Add two numbers.", "assert add(1, 2) == 3"),
        problem("Subtract two numbers.", "assert add(1, 2) == -1"),
    ];
    let mut learnt = String::new();
    for mut problem in problems.clone() {
        problem["response"] = json!(program);
        learnt.push_str(&format!("{problem}\n"));
    }
    space.write("learnt.jsonl", &learnt);
    space.write("problems.jsonl", &problems.map(|problem| format!("{problem}\n")).concat());
    space.write("w.yaml", &format!("{LEARNS}{}", template(workflow)));
    space.report("w.yaml", &[]);

    space.write("mbpp.yaml", workflow);
    let model = space.run(&["show", "w.yaml", "model", "--path"]).stdout;
    let folder = format!("folder={}", model.trim());
    let set = ["--set", &folder, "--set", "problems=problems.jsonl", "--sandbox", sandbox];
    space.report("mbpp.yaml", &set);
    let judged = shown(&space, &[&["mbpp.yaml", "judged"], &set[..]].concat());
    let found = "def add(a, b):\n    return a + b";
    assert_eq!(texts(&judged, "prediction"), [Some(found.to_owned()), Some(found.to_owned())]);
    assert_eq!(truths(&judged, "correct"), [true, false]);
}

#[test]
fn each_workflow_of_prompts_is_whole() {
    let space = Space::new();
    crate::space::small(&space);
    space.report("w.yaml", &["--only", "base"]);
    let model = space.run(&["show", "w.yaml", "base", "--path"]).stdout;
    let choices = json!({ "text": ["red", "blue"], "label": ["A", "B"] });
    let row = json!({
        "id": "a", "question": "1 plus 1?", "answer": "It is 2.\n#### 2", "problem": "1 plus 1?",
        "solution": "\\boxed{2}", "text": "Add.", "test_list": ["assert add(1, 1) == 2"],
        "code": "def add(a, b): return a + b", "choices": choices, "answerKey": "A",
    });
    space.write("row.jsonl", &format!("{row}\n"));
    for (workflow, table, text) in [
        ("arc.yaml", "questions", include_str!("../workflows/prompts/arc.yaml")),
        ("gsm8k.yaml", "questions", include_str!("../workflows/prompts/gsm8k.yaml")),
        ("math.yaml", "questions", include_str!("../workflows/prompts/math.yaml")),
        ("mbpp.yaml", "problems", include_str!("../workflows/prompts/mbpp.yaml")),
        ("rephrase.yaml", "training", include_str!("../workflows/prompts/rephrase.yaml")),
    ] {
        space.write(workflow, text);
        let folder = format!("folder={}", model.trim());
        let rows = format!("{table}=row.jsonl");
        let said = space.run(&["check", workflow, "--set", &folder, "--set", &rows]);
        assert_eq!(said.code, 0, "{workflow}: {}", said.stderr);
    }
}
