//! The agreement of two tables' masks.

use crate::artifacts::{figures, floats};
use crate::space::Space;

const WORKFLOW: &str = "refrain: 1\ndata: { a: { path: a.jsonl }, b: { path: b.jsonl } }\nstages:\n  \
    m: { diversify: { data: a, against: b, per: [set], measure: [mask_agreement, mask_jaccard] } }\n";

fn row(id: &str, set: &str, prompt: u32, mask: &str) -> String {
    let mask: Vec<&str> = mask.chars().map(|c| if c == '1' { "true" } else { "false" }).collect();
    format!(
        "{{\"id\": \"{id}\", \"set\": \"{set}\", \"prompt\": \"p\", \"response\": \"r\", \"prompt_tokens\": {prompt}, \
         \"loss_mask\": [{}]}}\n",
        mask.join(", ")
    )
}

fn space(a: &[String], b: &[String]) -> Space {
    let space = Space::new();
    space.write("w.yaml", WORKFLOW);
    space.write("a.jsonl", &a.concat());
    space.write("b.jsonl", &b.concat());
    space
}

/// Two response tokens of prompts of one, of which 3 of 4 and 1 of 2 are equal; a row of one table
/// alone does not count.
#[test]
fn tokens_of_the_same_rows_are_compared() {
    let a = [row("x", "s", 1, "01101"), row("y", "t", 2, "0010"), row("z", "t", 1, "00")];
    let b = [row("y", "t", 2, "0011"), row("x", "s", 1, "01001"), row("w", "s", 1, "00")];
    let space = space(&a, &b);
    space.report("w.yaml", &[]);
    let found = figures(&space, "m.metrics");
    // Left out by both: one token of x, none of y; by either: two of x, one of y.
    assert_eq!((found("mask_agreement"), found("mask_jaccard")), (4.0 / 6.0, 1.0 / 3.0));
    let groups = |name: &str| floats(&space, "m.groups", name);
    assert_eq!(groups("mask_agreement"), [0.75, 0.5]);
    assert_eq!(groups("mask_jaccard"), [0.5, 0.0]);

    // With itself.
    space.edit("w.yaml", "against: b", "against: a");
    space.report("w.yaml", &[]);
    let found = figures(&space, "m.metrics");
    assert_eq!((found("mask_agreement"), found("mask_jaccard")), (1.0, 1.0));
}

#[test]
fn masks_of_other_tokens_are_refused() {
    let space = space(&[row("x", "s", 1, "011")], &[row("x", "s", 1, "0110")]);
    let said = space.refuses(&["run", "w.yaml"]);
    let words = "the response of `x`, sample 0, has 2 tokens here and 3 in `against`";
    assert!(said.contains(words), "{said}");
    space.write("b.jsonl", "{\"id\": \"x\", \"response\": \"r\"}\n");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("`loss_mask`"), "{said}");
}
