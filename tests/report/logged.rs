//! `refrain log`: runs with what changed since the one before.

use serde_json::Value;

use super::compared;

#[test]
fn runs_are_listed_with_what_changed() {
    let space = compared();
    let none = space.run(&["log", "w.yaml"]);
    assert_eq!(none.stdout, "no run of this workflow is logged in its cache\n");
    space.report("w.yaml", &[]);
    space.edit("w.yaml", "task: number", "task: exact_match");
    space.edit("w.yaml", "value: 0.98, within: 0.05", "value: 0, within: 0.05");
    space.report("w.yaml", &[]);

    let said = space.run(&["log", "w.yaml"]);
    let lines: Vec<&str> = said.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{}", said.stdout);
    assert!(lines[0].contains(" UTC  10 nodes run, 10 cached, "), "{}", lines[0]);
    let change = "    10 nodes: `parameters.task` changed from \"number\" to \"exact_match\"";
    assert!(lines[1].starts_with(change), "{}", lines[1]);
    assert!(lines[2].contains("20 nodes run, 0 cached"), "{}", lines[2]);
    assert_eq!(lines[3], "    20 nodes: no earlier result");

    let said = space.run(&["log", "w.yaml", "--runs", "1", "--format", "json"]);
    let document: Value = serde_json::from_str(&said.stdout).unwrap();
    let [run] = document["runs"].as_array().unwrap().as_slice() else { panic!("{document}") };
    assert_eq!((&run["ran"], &run["complete"]), (&10.into(), &true.into()));
    assert_eq!(run["changes"][0]["nodes"], 10);
}
