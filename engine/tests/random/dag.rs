//! A random workflow, the edits of it, and what its nodes are made from, worked out without the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use refrain_cache::{ArtifactKind, TableReader};
use refrain_engine::graph::Graph;
use refrain_engine::kind::{
    Context, Kind, Kinds, MAIN, NodeResult, OutputDecl, Param, StageError, Type,
};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::Workflow;

use crate::kind::kind;

/// What a node is made from: its kind, its parameters, and what its inputs hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    kind: &'static str,
    params: String,
    inputs: Vec<String>,
}

/// What a table holds: all of it as text, and the sum of its values.
#[derive(Debug, Clone)]
struct Content {
    text: String,
    sum: i64,
}

/// The axes that a stage depends on, and what its node holds at each point of those axes.
type Made = (BTreeSet<usize>, BTreeMap<Vec<i64>, Content>);

#[derive(Debug, Clone)]
pub struct Dag {
    sources: Vec<Vec<i64>>,
    params: Vec<i64>,
    axes: Vec<BTreeSet<i64>>,
    stages: Vec<Stage>,
    /// Seed of the order in which the stages are declared.
    order: u64,
    /// A stage after which one fails.
    broken: Option<usize>,
    renamed: usize,
}

#[derive(Debug, Clone)]
struct Stage {
    name: String,
    inputs: Vec<Input>,
    salt: Salt,
    modulus: i64,
}

#[derive(Debug, Clone, Copy)]
enum Input {
    Source(usize),
    /// An earlier stage; all its nodes as one table where `gathered`.
    Stage {
        index: usize,
        gathered: bool,
    },
}

#[derive(Debug, Clone, Copy)]
enum Salt {
    Value(i64),
    Param(usize),
    Axis(usize),
}

/// A stage as it is drawn: its inputs are any numbers, to be taken modulo what there is.
#[derive(Debug, Clone)]
pub struct Drawn {
    inputs: Vec<(usize, bool)>,
    salt: (u8, usize, i64),
    modulus: i64,
}

#[derive(Debug, Clone)]
pub enum Edit {
    Param(usize, i64),
    Row(usize, usize, i64),
    AddRow(usize, i64),
    Salt(usize, i64),
    Modulus(usize, i64),
    Reorder(u64),
    Remove(usize),
    Add(Drawn),
    Rename(usize),
    AddPoint(usize, i64),
    DropPoint(usize),
    Force(usize),
    Lose(usize),
    Break(usize),
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let inputs = prop::collection::vec((any::<usize>(), prop::bool::weighted(0.3)), 0..4);
    (inputs, (0u8..4, any::<usize>(), 0i64..5), 1i64..6).prop_map(|(inputs, salt, modulus)| Drawn {
        inputs,
        salt,
        modulus,
    })
}

/// Any workflow of up to nine stages.
pub fn any_dag() -> impl Strategy<Value = Dag> {
    let sources = prop::collection::vec(prop::collection::vec(0i64..4, 1..4), 1..3);
    let axes = prop::collection::vec(prop::collection::btree_set(0i64..6, 1..4), 0..3);
    let params = prop::collection::vec(0i64..4, 1..3);
    (sources, params, axes, prop::collection::vec(drawn(), 1..10), any::<u64>()).prop_map(
        |(sources, params, axes, drawn, order)| {
            let stages = Vec::new();
            let mut dag = Dag { sources, params, axes, stages, order, broken: None, renamed: 0 };
            drawn.iter().for_each(|stage| dag.add(stage));
            dag
        },
    )
}

pub fn any_edit() -> impl Strategy<Value = (Edit, usize)> {
    let n = any::<usize>;
    let edit = prop_oneof![
        (n(), 0i64..6).prop_map(|(i, v)| Edit::Param(i, v)),
        (n(), n(), 0i64..6).prop_map(|(i, row, v)| Edit::Row(i, row, v)),
        (n(), 0i64..6).prop_map(|(i, v)| Edit::AddRow(i, v)),
        (n(), 0i64..6).prop_map(|(i, v)| Edit::Salt(i, v)),
        (n(), 1i64..6).prop_map(|(i, v)| Edit::Modulus(i, v)),
        any::<u64>().prop_map(Edit::Reorder),
        n().prop_map(Edit::Remove),
        drawn().prop_map(Edit::Add),
        n().prop_map(Edit::Rename),
        (n(), 0i64..6).prop_map(|(i, v)| Edit::AddPoint(i, v)),
        n().prop_map(Edit::DropPoint),
        n().prop_map(Edit::Force),
        n().prop_map(Edit::Lose),
        n().prop_map(Edit::Break),
    ];
    (edit, 1usize..5)
}

impl Dag {
    fn add(&mut self, drawn: &Drawn) {
        let known = self.sources.len() + self.stages.len();
        let inputs = drawn.inputs.iter().map(|(i, gathered)| match i % known {
            i if i < self.sources.len() => Input::Source(i),
            i => Input::Stage { index: i - self.sources.len(), gathered: *gathered },
        });
        let salt = match drawn.salt {
            (0, i, _) => Salt::Param(i % self.params.len()),
            (1, i, _) if !self.axes.is_empty() => Salt::Axis(i % self.axes.len()),
            (.., value) => Salt::Value(value),
        };
        self.renamed += 1;
        let name = format!("s{}", self.renamed);
        self.stages.push(Stage { name, inputs: inputs.collect(), salt, modulus: drawn.modulus });
    }

    /// Changes the workflow or its sources.
    pub fn apply(&mut self, edit: &Edit) {
        let stages = self.stages.len();
        match *edit {
            Edit::Param(i, value) => {
                let i = i % self.params.len();
                self.params[i] = value;
            }
            Edit::Row(i, row, value) => {
                let i = i % self.sources.len();
                let row = row % self.sources[i].len();
                self.sources[i][row] = value;
            }
            Edit::AddRow(i, value) => {
                let i = i % self.sources.len();
                self.sources[i].push(value);
            }
            Edit::Salt(i, value) => self.stages[i % stages].salt = Salt::Value(value),
            Edit::Modulus(i, value) => self.stages[i % stages].modulus = value,
            Edit::Reorder(order) => self.order = order,
            Edit::Remove(i) if stages > 1 => self.remove(i % stages),
            Edit::Add(ref drawn) => self.add(drawn),
            Edit::Rename(i) => {
                self.renamed += 1;
                self.stages[i % stages].name = format!("s{}", self.renamed);
            }
            Edit::AddPoint(i, value) if !self.axes.is_empty() => {
                let i = i % self.axes.len();
                self.axes[i].insert(value);
            }
            Edit::DropPoint(i) if !self.axes.is_empty() => {
                let i = i % self.axes.len();
                if self.axes[i].len() > 1 {
                    self.axes[i].pop_first();
                }
            }
            _ => {}
        }
    }

    /// Removes a stage; what read it reads the first source.
    fn remove(&mut self, removed: usize) {
        self.stages.remove(removed);
        for input in self.stages.iter_mut().flat_map(|stage| &mut stage.inputs) {
            *input = match *input {
                Input::Stage { index, .. } if index == removed => Input::Source(0),
                Input::Stage { index, gathered } if index > removed => {
                    Input::Stage { index: index - 1, gathered }
                }
                other => other,
            };
        }
    }

    /// The same with a stage that fails.
    pub fn broken(&self, after: usize) -> Dag {
        Dag { broken: Some(after % self.stages.len()), ..self.clone() }
    }

    /// The same, declared in another order.
    pub fn reordered(&self) -> Dag {
        Dag { order: self.order.wrapping_mul(31).wrapping_add(7), ..self.clone() }
    }

    pub fn write_sources(&self, folder: &Path) {
        for (i, values) in self.sources.iter().enumerate() {
            let row = |(n, value)| format!("{{\"id\": \"r{n}\", \"value\": {value}}}\n");
            let rows: String = values.iter().enumerate().map(row).collect();
            std::fs::write(folder.join(format!("d{i}.jsonl")), rows).unwrap();
        }
    }

    pub fn yaml(&self) -> String {
        let mut text = String::from("refrain: 1\nparams:\n");
        for (i, value) in self.params.iter().enumerate() {
            text.push_str(&format!("  p{i}: {value}\n"));
        }
        text.push_str("data:\n");
        for i in 0..self.sources.len() {
            text.push_str(&format!("  d{i}: {{ path: d{i}.jsonl }}\n"));
        }
        text.push_str("stages:\n");
        let mut stages: Vec<String> =
            self.stages.iter().map(|stage| self.stage_yaml(stage)).collect();
        if let Some(after) = self.broken {
            let after = &self.stages[after].name;
            stages.push(format!("  broken: {{ breaks: {{ inputs: {{ i0: {after} }} }} }}\n"));
        }
        // Drawn by the seed: any order will do.
        let mut seed = self.order;
        while !stages.is_empty() {
            let next = (seed % stages.len() as u64) as usize;
            seed = (seed / 3).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            text.push_str(&stages.remove(next));
        }
        if !self.axes.is_empty() {
            text.push_str("sweep:\n");
        }
        for (i, values) in self.axes.iter().enumerate() {
            let values: Vec<String> = values.iter().map(i64::to_string).collect();
            text.push_str(&format!("  a{i}: [{}]\n", values.join(", ")));
        }
        text
    }

    fn stage_yaml(&self, stage: &Stage) -> String {
        let inputs: Vec<String> = stage.inputs.iter().map(|input| self.reference(input)).collect();
        let inputs: Vec<String> =
            inputs.iter().enumerate().map(|(i, name)| format!("i{i}: \"{name}\"")).collect();
        let salt = match stage.salt {
            Salt::Value(value) => value.to_string(),
            Salt::Param(i) => format!("\"${{p{i}}}\""),
            Salt::Axis(i) => format!("\"${{a{i}}}\""),
        };
        format!(
            "  {}: {{ mix: {{ inputs: {{ {} }}, salt: {salt}, modulus: {} }} }}\n",
            stage.name,
            inputs.join(", "),
            stage.modulus
        )
    }

    fn reference(&self, input: &Input) -> String {
        match *input {
            Input::Source(i) => format!("d{i}"),
            Input::Stage { index, gathered } => {
                format!("{}{}", self.stages[index].name, if gathered { "[*]" } else { "" })
            }
        }
    }

    /// The graph that the engine makes of it, its sources in a folder.
    pub fn graph(&self, folder: &Path) -> Graph {
        let source = SourceText { path: folder.join("w.yaml"), text: self.yaml() };
        let workflow = Workflow::parse(source, &kinds(), &[])
            .unwrap_or_else(|e| panic!("{e:?}\n{}", self.yaml()));
        Graph::build(workflow).unwrap_or_else(|e| panic!("{e:?}\n{}", self.yaml()))
    }

    /// What every node is made from, by name.
    pub fn evaluate(&self) -> BTreeMap<String, Identity> {
        let mut nodes = BTreeMap::new();
        let mut made: Vec<Made> = Vec::new();
        for stage in &self.stages {
            let mut axes: BTreeSet<usize> = match stage.salt {
                Salt::Axis(i) => BTreeSet::from([i]),
                _ => BTreeSet::new(),
            };
            for input in &stage.inputs {
                if let Input::Stage { index, gathered: false } = input {
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
                        Input::Source(i) => self.source(i, &mut nodes),
                        Input::Stage { index, gathered: false } => {
                            made[index].1[&at(&made[index].0)].clone()
                        }
                        Input::Stage { index, gathered: true } => {
                            self.gather(index, &made[index], &mut nodes)
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
                let name = if labels.is_empty() {
                    stage.name.clone()
                } else {
                    format!("{}[{}]", stage.name, labels.join(","))
                };
                nodes.insert(name, Identity { kind: "mix", params, inputs });
                contents.insert(at(&axes), Content { text: format!("value {value}"), sum: value });
            }
            made.push((axes, contents));
        }
        nodes
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
            format!("{}[*]", self.stages[index].name),
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

const INPUTS: Param = Param::default(
    "inputs",
    Type::Map(&Type::Reference(Some(ArtifactKind::Table))),
    "{}",
    "Tables",
);
const WHOLE: Type = Type::Int { min: 0, max: i64::MAX };

fn kinds() -> Kinds {
    let kind = |name, params, run| Kind {
        params,
        outputs: |_| vec![OutputDecl { name: MAIN.into(), kind: ArtifactKind::Table }],
        metrics: &[],
        close_elsewhere: false,
        ..kind(name, run)
    };
    static MIX: &[Param] = &[
        INPUTS,
        Param::required("salt", WHOLE, "Added"),
        Param::required("modulus", WHOLE, "Divides"),
    ];
    static BREAKS: &[Param] = &[INPUTS];
    Kinds::new(vec![
        kind("mix", MIX, mix),
        kind("breaks", BREAKS, |_| Err(StageError::failed("it fails as it was told"))),
    ])
}

/// One row: the sum of all values of all inputs, each input by its place, and the salt; small, so that other inputs
/// often make the same.
fn mix(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let number = |name: &str| context.params[name].as_i64().unwrap();
    let mut sum = number("salt");
    for (path, input) in context.inputs {
        let place: i64 = path.strip_prefix("inputs.i").unwrap().parse().unwrap();
        let batch = TableReader::open(input.path())?.read_all(Some(&["value"]))?;
        let values: &Int64Array = batch.column(0).as_primitive::<Int64Type>();
        sum += (place + 1) * values.values().iter().sum::<i64>();
    }
    let value = Int64Array::from(vec![sum % number("modulus")]);
    let batch = RecordBatch::try_from_iter([("value", Arc::new(value) as _)]).unwrap();
    let mut table = context.cache.new_table(batch.schema())?;
    table.write(&batch)?;
    Ok(NodeResult::main(context.cache.store_table(table)?))
}
