//! Origins and contents of a random workflow's nodes, worked out without the engine.

use std::collections::{BTreeMap, BTreeSet};

use super::{Content, Dag, Identity, Made, Read, Rounds, Salt};

impl Dag {
    /// The origin of every node, by name.
    pub fn evaluate(&self) -> BTreeMap<String, Identity> {
        let mut nodes = BTreeMap::new();
        self.as_set().evaluate_into(&mut nodes);
        nodes
    }

    fn evaluate_into(&self, nodes: &mut BTreeMap<String, Identity>) {
        for (i, model) in self.adapters.iter().enumerate() {
            let base = format!("model {}", self.models[*model]);
            let identity = |kind, input: String| {
                let params = String::new();
                Identity { kind, params, inputs: vec![input] }
            };
            nodes.insert(format!("t{i}"), identity("train", base.clone()));
            nodes.insert(format!("u{i}"), identity("apply", format!("adapter of {base}")));
        }
        let mut made: Vec<Made> = Vec::new();
        for stage in &self.stages {
            let mut axes: BTreeSet<usize> = match stage.salt {
                Salt::Axis(i) => BTreeSet::from([i]),
                _ => BTreeSet::new(),
            };
            for input in &stage.inputs {
                if let Read::Stage { index, gathered: false } = input {
                    axes.extend(&made[*index].0);
                }
            }
            let mut contents = BTreeMap::new();
            for point in self.points(&axes) {
                let at = |wanted: &BTreeSet<usize>| -> Vec<i64> {
                    wanted.iter().map(|a| point[a]).collect()
                };
                let inputs: Vec<Content> = stage
                    .inputs
                    .iter()
                    .map(|input| match *input {
                        Read::Source(i) => self.source(i, nodes),
                        Read::Stage { index, gathered: false } => {
                            made[index].1[&at(&made[index].0)].clone()
                        }
                        Read::Stage { index, gathered: true } => {
                            self.gather(index, &made[index], nodes)
                        }
                    })
                    .collect();
                let salt = match stage.salt {
                    Salt::Value(value) => value,
                    Salt::Param(i) => self.params[i],
                    Salt::Axis(i) => point[&i],
                };
                let sum: i64 =
                    inputs.iter().zip(1..).map(|(content, factor)| content.sum * factor).sum();
                let value = (salt + sum) % stage.modulus;
                let params = format!("{salt} % {}", stage.modulus);
                let inputs = inputs.into_iter().map(|content| content.text).collect();
                let labels: Vec<String> =
                    axes.iter().map(|a| format!("a{a}={}", point[a])).collect();
                let name = node_name(&stage.full_name(), &labels);
                nodes.insert(name, Identity { kind: "mix", params, inputs });
                contents.insert(at(&axes), Content { text: format!("value {value}"), sum: value });
            }
            made.push((axes, contents));
        }
        self.evaluate_rounds(&made, nodes);
    }

    /// The loop, and what reads it.
    fn evaluate_rounds(&self, made: &[Made], nodes: &mut BTreeMap<String, Identity>) {
        let Rounds { base, times, modulus } = &self.rounds;
        let axes = match base {
            Read::Source(_) => BTreeSet::new(),
            Read::Stage { index, .. } => made[*index].0.clone(),
        };
        let mix = |input: &Content, salt: i64, modulus: i64| {
            let value = (salt + input.sum) % modulus;
            let identity = Identity {
                kind: "mix",
                params: format!("{salt} % {modulus}"),
                inputs: vec![input.text.clone()],
            };
            (identity, Content { text: format!("value {value}"), sum: value })
        };
        let mut all: BTreeMap<Vec<i64>, Content> = BTreeMap::new();
        for point in self.points(&axes) {
            let values: Vec<i64> = axes.iter().map(|axis| point[axis]).collect();
            let labels: Vec<String> = axes.iter().map(|a| format!("a{a}={}", point[a])).collect();
            let mut content = match base {
                Read::Source(i) => self.source(*i, nodes),
                Read::Stage { index, .. } => made[*index].1[&values].clone(),
            };
            for round in 1..=*times {
                let (identity, made) = mix(&content, round, *modulus);
                let labels = [labels.clone(), vec![format!("round={round}")]].concat();
                nodes.insert(node_name("loop/step", &labels), identity);
                all.insert([values.clone(), vec![round]].concat(), made.clone());
                content = made;
            }
            nodes.insert(node_name("last", &labels), mix(&content, 1, 4).0);
        }

        let params = format!("rounds of {axes:?} {:?}", all.keys().collect::<Vec<_>>());
        let inputs: Vec<String> = all.values().map(|content| content.text.clone()).collect();
        let sum = all.values().map(|content| content.sum).sum();
        let gathered = Content { text: format!("gathered {params} {inputs:?}"), sum };
        nodes.insert("loop/step[*]".into(), Identity { kind: "gather", params, inputs });
        nodes.insert("every".into(), mix(&gathered, 1, 4).0);
    }

    fn source(&self, i: usize, nodes: &mut BTreeMap<String, Identity>) -> Content {
        let text = format!("rows {:?}", self.sources[i]);
        let identity =
            Identity { kind: "source", params: String::new(), inputs: vec![text.clone()] };
        nodes.insert(format!("d{i}"), identity);
        Content { text, sum: self.sources[i].iter().sum() }
    }

    fn gather(
        &self,
        index: usize,
        (axes, contents): &Made,
        nodes: &mut BTreeMap<String, Identity>,
    ) -> Content {
        let params = format!("{axes:?} {:?}", contents.keys().collect::<Vec<_>>());
        let inputs: Vec<String> = contents.values().map(|content| content.text.clone()).collect();
        // Without axes there is one node and no column to add: its very table.
        let text = match &inputs[..] {
            [one] if axes.is_empty() => one.clone(),
            _ => format!("gathered {params} {inputs:?}"),
        };
        nodes.insert(
            format!("{}[*]", self.stages[index].full_name()),
            Identity { kind: "gather", params, inputs },
        );
        Content { text, sum: contents.values().map(|content| content.sum).sum() }
    }

    /// All points of some axes: the value of each.
    fn points(&self, axes: &BTreeSet<usize>) -> Vec<BTreeMap<usize, i64>> {
        let mut points = vec![BTreeMap::new()];
        for axis in axes {
            let with = |point: &BTreeMap<usize, i64>, value: &i64| {
                let mut point = point.clone();
                point.insert(*axis, *value);
                point
            };
            points = points
                .iter()
                .flat_map(|p| self.axes[*axis].iter().map(move |v| with(p, v)))
                .collect();
        }
        points
    }
}

fn node_name(stage: &str, labels: &[String]) -> String {
    if labels.is_empty() { stage.into() } else { format!("{stage}[{}]", labels.join(",")) }
}
