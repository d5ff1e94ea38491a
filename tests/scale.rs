//! Graphs wider than what is looked up in one go: nothing that changed is overlooked, and nothing
//! else runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::space::{Said, Space, set};

const WIDTH: usize = 40;
const DEPTH: usize = 3;

/// Chains of commands, all of whose results differ, as a sweep or written out; and the name of a
/// node in it.
struct Chains {
    space: Space,
    name: fn(usize, usize) -> String,
}

fn step(source: &str, at: &str) -> String {
    let command = format!("cat ${{in.x}} > ${{out.y}}; echo {at} >> ${{out.y}}");
    format!(
        "run: {{ command: [sh, -c, \"{command}\"], inputs: {{ x: {source} }}, outputs: {{ y: file }} }}"
    )
}

const HEAD: &str = "refrain: 1\ndata:\n  seed: { path: in.txt, type: file }\nstages:\n";

impl Chains {
    fn sweep() -> Chains {
        let stage = |d: usize| {
            let source = if d == 0 { "seed".into() } else { format!("s{}", d - 1) };
            format!("  s{d}: {{ {} }}\n", step(&source, &format!("${{w}} {d}")))
        };
        let stages: String = (0..DEPTH).map(stage).collect();
        let values: Vec<String> = (0..WIDTH).map(|w| w.to_string()).collect();
        let text = format!("{HEAD}{stages}sweep:\n  w: [{}]\n", values.join(", "));
        Chains::new(&text, |w, d| format!("s{d}[w={w}]"))
    }

    fn written() -> Chains {
        let mut text = HEAD.to_string();
        for (w, d) in (0..WIDTH).flat_map(|w| (0..DEPTH).map(move |d| (w, d))) {
            let source = if d == 0 { "seed".into() } else { format!("s{w}_{}", d - 1) };
            text.push_str(&format!("  s{w}_{d}: {{ {} }}\n", step(&source, &format!("{w} {d}"))));
        }
        Chains::new(&text, |w, d| format!("s{w}_{d}"))
    }

    fn new(text: &str, name: fn(usize, usize) -> String) -> Chains {
        let space = Space::new();
        space.write("w.yaml", text);
        let chains = Chains { space, name };
        chains.source("seed\n");
        assert!(chains.says("121 cached").is_none(), "nothing has run");
        chains
    }

    /// Writes the source and waits until its digest can be remembered: a file younger than two
    /// seconds is hashed at every run.
    fn source(&self, text: &str) {
        self.space.write("in.txt", text);
        std::thread::sleep(Duration::from_millis(2_100));
    }

    /// Runs without a report, which is what may rest on a kept plan; what it said where that holds
    /// a text.
    fn says(&self, text: &str) -> Option<Said> {
        let said = self.space.run(&["run", "w.yaml", "--quiet"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        said.stderr.contains(text).then_some(said)
    }

    fn object(&self, w: usize, d: usize) -> PathBuf {
        let path = self.space.run(&["show", "w.yaml", &(self.name)(w, d), "--path"]).stdout;
        path.trim().into()
    }

    fn names(&self, nodes: &[(usize, usize)]) -> BTreeSet<String> {
        nodes.iter().map(|(w, d)| (self.name)(*w, *d)).collect()
    }
}

#[test]
fn what_is_lost_damaged_or_touched_is_noticed_wherever_it_is() {
    for chains in [Chains::sweep(), Chains::written()] {
        let lock = chains.space.read("w.lock");
        assert!(chains.says("0 nodes run, 121 cached").is_some());
        let lose = || {
            std::fs::remove_file(chains.object(7, 1)).unwrap();
            let damaged = chains.object(38, 2);
            let bytes = std::fs::read(&damaged).unwrap();
            std::fs::remove_file(&damaged).unwrap();
            std::fs::write(&damaged, &bytes[..bytes.len() - 1]).unwrap();
        };
        lose();
        assert_eq!(
            chains.space.ran("w.yaml", &[]),
            chains.names(&[(7, 1), (38, 2)]),
            "as planned anew"
        );
        assert!(chains.says("0 nodes run, 121 cached").is_some());
        lose();
        assert!(chains.says("2 nodes run, 119 cached").is_some(), "as a kept plan is checked");
        chains.source("seed\n");
        assert!(
            chains.says("0 nodes run, 121 cached").is_some(),
            "a source that was touched alone"
        );
        assert_eq!(chains.space.read("w.lock"), lock);
        chains.source("other\n");
        assert!(chains.says("120 nodes run, 1 cached").is_some());
        assert_ne!(chains.space.read("w.lock"), lock);
    }
}

#[test]
fn a_value_of_a_sweep_runs_its_own_chain() {
    let chains = Chains::sweep();
    let expected = set(&["s0[w=300]", "s1[w=300]", "s2[w=300]"]);
    chains.space.edit("w.yaml", " 23,", " 300,");
    let said = chains.space.run(&["plan", "w.yaml", "--format", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let nodes = plan["nodes"].as_array().unwrap().iter();
    let planned: Vec<(&str, &str)> = nodes
        .map(|node| (node["node"].as_str().unwrap(), node["step"].as_str().unwrap()))
        .filter(|(_, step)| *step != "cached")
        .collect();
    assert_eq!(planned, [("s0[w=300]", "run"), ("s1[w=300]", "depends"), ("s2[w=300]", "depends")]);
    let said = chains.space.run(&["explain", "w.yaml", "s0[w=300]"]);
    assert!(said.stdout.contains("it would be computed"), "{}", said.stdout);
    let said = chains.space.run(&["explain", "w.yaml", "s2[w=22]"]);
    assert!(said.stdout.contains("nothing differs from the last run"), "{}", said.stdout);
    assert_eq!(chains.space.ran("w.yaml", &["--jobs", "1"]), expected);
    let lock = chains.space.read("w.lock");
    assert!(
        lock.contains("w=300") && !lock.contains("w=23]"),
        "the lock keeps no line of a node that is no more"
    );
    assert_eq!(chains.space.run(&["verify", "w.yaml", "--complete"]).code, 0);
}
