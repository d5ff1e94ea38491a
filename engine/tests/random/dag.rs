//! A random workflow, the edits of it, and what its nodes are made from, worked out without the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use refrain_cache::{ArtifactKind, TableReader};
use refrain_engine::graph::Graph;
use refrain_engine::kind::{
    Context, Input, Kind, Kinds, MAIN, NodeResult, OutputDecl, Param, StageError, Type,
};
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::{Override, Workflow};

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
    /// A value that the command line gives: of a param, or of an axis the one point that is left.
    set: Option<Set>,
    /// The configurations of the models, and for each adapter the model that it is trained on. All adapters have the
    /// same bytes.
    models: [i64; 2],
    adapters: [usize; 2],
    rounds: Rounds,
}

/// A loop of one stage, beside a stage that reads its last round and one that reads all.
#[derive(Debug, Clone)]
struct Rounds {
    /// Read in the first round; never gathered.
    base: Read,
    times: i64,
    modulus: i64,
}

/// A value of the command line.
#[derive(Debug, Clone, Copy)]
enum Set {
    Param(usize, i64),
    Axis(usize, i64),
}

#[derive(Debug, Clone)]
struct Stage {
    name: String,
    inputs: Vec<Read>,
    salt: Salt,
    modulus: i64,
    /// The file that it is written in, where that is an included one.
    file: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Read {
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
    /// A run with `--set`: of the param, or the axis, at this place.
    Set(bool, usize, i64),
    Model(usize, i64),
    Adapter(usize, usize),
    /// A stage is written in another file: no key knows of it.
    Move(usize, Option<usize>),
    /// The loop has as many rounds.
    Rounds(i64),
    /// The loop begins with another stage or source.
    Base(usize),
    RoundModulus(i64),
    /// A run during which a row changes.
    During(usize, usize, i64),
    /// One of the files of records is damaged at a place.
    Damage(usize, usize),
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
            let (models, adapters) = ([1, 2], [0, 1]);
            let rounds = Rounds { base: Read::Source(0), times: 2, modulus: 5 };
            let (broken, set, renamed) = (None, None, 0);
            let mut dag = Dag {
                sources,
                params,
                axes,
                stages,
                order,
                broken,
                renamed,
                set,
                models,
                adapters,
                rounds,
            };
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
        (n(), prop::option::weighted(0.7, 0usize..FILES)).prop_map(|(i, f)| Edit::Move(i, f)),
        (1i64..5).prop_map(Edit::Rounds),
        n().prop_map(Edit::Base),
        (1i64..6).prop_map(Edit::RoundModulus),
        n().prop_map(Edit::Remove),
        drawn().prop_map(Edit::Add),
        n().prop_map(Edit::Rename),
        (n(), 0i64..6).prop_map(|(i, v)| Edit::AddPoint(i, v)),
        n().prop_map(Edit::DropPoint),
        n().prop_map(Edit::Force),
        n().prop_map(Edit::Lose),
        n().prop_map(Edit::Break),
        (any::<bool>(), n(), 0i64..6).prop_map(|(axis, i, v)| Edit::Set(axis, i, v)),
        (n(), 0i64..3).prop_map(|(i, v)| Edit::Model(i, v)),
        (n(), n()).prop_map(|(i, model)| Edit::Adapter(i, model)),
        (n(), n(), 0i64..6).prop_map(|(i, row, v)| Edit::During(i, row, v)),
        (n(), n()).prop_map(|(file, at)| Edit::Damage(file, at)),
    ];
    (edit, 1usize..5)
}

impl Dag {
    fn add(&mut self, drawn: &Drawn) {
        let known = self.sources.len() + self.stages.len();
        let inputs = drawn.inputs.iter().map(|(i, gathered)| match i % known {
            i if i < self.sources.len() => Read::Source(i),
            i => Read::Stage { index: i - self.sources.len(), gathered: *gathered },
        });
        let salt = match drawn.salt {
            (0, i, _) => Salt::Param(i % self.params.len()),
            (1, i, _) if !self.axes.is_empty() => Salt::Axis(i % self.axes.len()),
            (.., value) => Salt::Value(value),
        };
        self.renamed += 1;
        let name = format!("s{}", self.renamed);
        let (inputs, file) = (inputs.collect(), None);
        self.stages.push(Stage { name, inputs, salt, modulus: drawn.modulus, file });
    }

    /// Changes the workflow or its sources.
    pub fn apply(&mut self, edit: &Edit) {
        let stages = self.stages.len();
        match *edit {
            Edit::Param(i, value) => {
                let i = i % self.params.len();
                self.params[i] = value;
            }
            Edit::Row(i, row, value) | Edit::During(i, row, value) => {
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
            Edit::Model(i, value) => self.models[i % 2] = value,
            Edit::Adapter(i, model) => self.adapters[i % 2] = model % 2,
            Edit::Reorder(order) => self.order = order,
            Edit::Move(i, file) => self.stages[i % stages].file = file,
            Edit::Rounds(times) => self.rounds.times = times,
            Edit::RoundModulus(modulus) => self.rounds.modulus = modulus,
            Edit::Base(i) => {
                self.rounds.base = match i % (self.sources.len() + stages) {
                    i if i < self.sources.len() => Read::Source(i),
                    i => Read::Stage { index: i - self.sources.len(), gathered: false },
                };
            }
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
        let inputs = self.stages.iter_mut().flat_map(|stage| &mut stage.inputs);
        for input in inputs.chain([&mut self.rounds.base]) {
            *input = match *input {
                Read::Stage { index, .. } if index == removed => Read::Source(0),
                Read::Stage { index, gathered } if index > removed => {
                    Read::Stage { index: index - 1, gathered }
                }
                other => other,
            };
        }
    }

    /// The same with a stage that fails.
    pub fn broken(&self, after: usize) -> Dag {
        Dag { broken: Some(after % self.stages.len()), ..self.clone() }
    }

    /// The same with a value of the command line: any of a param, one that is there of an axis. Of those that nothing
    /// reads none is taken, since that is refused.
    pub fn with_set(&self, axis: bool, i: usize, value: i64) -> Dag {
        let read = self.stages.iter().filter_map(|stage| match stage.salt {
            Salt::Axis(i) if axis => Some(i),
            Salt::Param(i) if !axis => Some(i),
            _ => None,
        });
        let read: BTreeSet<usize> = read.collect();
        let chosen = read.iter().nth(i % read.len().max(1));
        let set = chosen.map(|&i| match axis {
            false => Set::Param(i, value),
            true => {
                let values = &self.axes[i];
                Set::Axis(i, *values.iter().nth(value as usize % values.len()).unwrap())
            }
        });
        Dag { set, ..self.clone() }
    }

    /// The same, as the value of the command line makes it.
    fn as_set(&self) -> Dag {
        let mut dag = self.clone();
        match self.set {
            Some(Set::Param(i, value)) => dag.params[i] = value,
            Some(Set::Axis(i, value)) => dag.axes[i] = BTreeSet::from([value]),
            None => {}
        }
        dag
    }

    /// The same, declared in another order.
    pub fn reordered(&self) -> Dag {
        Dag { order: self.order.wrapping_mul(31).wrapping_add(7), ..self.clone() }
    }

    /// Lets the next stage that runs write a source as it is in this workflow.
    pub fn write_during(&self, i: usize, folder: &Path) {
        let i = i % self.sources.len();
        *DURING.lock().unwrap() = Some((folder.join(format!("d{i}.jsonl")), self.rows(i)));
    }

    /// The text of a source.
    fn rows(&self, i: usize) -> String {
        let row = |(n, value)| format!("{{\"id\": \"r{n}\", \"value\": {value}}}\n");
        self.sources[i].iter().enumerate().map(row).collect()
    }

    /// Writes the sources and models. All have one time and, where no row was added, one size: a change is to be
    /// noticed all the same.
    pub fn write_sources(&self, folder: &Path) {
        let write = |path: &str, text: String| {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let known = std::fs::read(&path).is_ok_and(|known| known == text.as_bytes());
            if !known {
                std::fs::write(&path, text).unwrap();
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                file.set_modified(UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
            }
        };
        for i in 0..self.sources.len() {
            write(&format!("d{i}.jsonl"), self.rows(i));
        }
        for (i, value) in self.models.iter().enumerate() {
            write(&format!("m{i}/config.json"), format!("{{\"value\": {value}}}"));
            write(&format!("m{i}/model.safetensors"), "weights".into());
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
        text.push_str("models: { m0: { path: m0 }, m1: { path: m1 } }\n");
        text.push_str(&self.includes());
        text.push_str("stages:\n");
        let own = self.stages.iter().filter(|stage| stage.file.is_none());
        let mut stages: Vec<String> = own.map(|stage| self.stage_yaml(stage)).collect();
        let Rounds { base, times, modulus } = &self.rounds;
        let base = self.reference(base);
        stages.push(format!(
            "  loop:\n    repeat: {{ times: {times}, carry: {{ \"{base}\": step }} }}\n    stages:\n      \
             step: {{ mix: {{ inputs: {{ i0: \"{base}\" }}, salt: \"${{round}}\", modulus: {modulus} }} }}\n"
        ));
        for (name, read) in [("last", "loop/step"), ("every", "loop/step[*]")] {
            stages.push(format!(
                "  {name}: {{ mix: {{ inputs: {{ i0: \"{read}\" }}, salt: 1, modulus: 4 }} }}\n"
            ));
        }
        for (i, model) in self.adapters.iter().enumerate() {
            stages.push(format!("  t{i}: {{ train: {{ model: m{model} }} }}\n"));
            stages.push(format!("  u{i}: {{ apply: {{ model: t{i} }} }}\n"));
        }
        if let Some(after) = self.broken {
            let after = self.stages[after].full_name();
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

    /// The section `include`: every value that the stages of a file read is handed to it.
    fn includes(&self) -> String {
        let mut text = String::new();
        for file in self.files() {
            let mut with = Vec::new();
            for stage in self.stages.iter().filter(|stage| stage.file == Some(file)) {
                for (i, input) in stage.inputs.iter().enumerate() {
                    if !self.is_in(input, file) {
                        let reference = self.reference(input);
                        with.push(format!("{}_i{i}: \"{reference}\"", stage.name));
                    }
                }
                if !matches!(stage.salt, Salt::Value(_)) {
                    with.push(format!("{}_salt: {}", stage.name, self.salt(stage)));
                }
            }
            let with = with.join(", ");
            text.push_str(&format!("  f{file}: {{ file: part{file}.yaml, with: {{ {with} }} }}\n"));
        }
        if text.is_empty() { text } else { format!("include:\n{text}") }
    }

    /// The included files that have stages.
    fn files(&self) -> Vec<usize> {
        let has = |file: &usize| self.stages.iter().any(|stage| stage.file == Some(*file));
        (0..FILES).filter(has).collect()
    }

    /// Whether an input is a stage of an included file.
    fn is_in(&self, input: &Read, file: usize) -> bool {
        matches!(input, Read::Stage { index, .. } if self.stages[*index].file == Some(file))
    }

    /// The text of an included file.
    fn part(&self, file: usize) -> String {
        let (mut params, mut stages) = (String::new(), String::new());
        for stage in self.stages.iter().filter(|stage| stage.file == Some(file)) {
            for i in (0..stage.inputs.len()).filter(|i| !self.is_in(&stage.inputs[*i], file)) {
                params.push_str(&format!("  {}_i{i}: null\n", stage.name));
            }
            if !matches!(stage.salt, Salt::Value(_)) {
                params.push_str(&format!("  {}_salt: 0\n", stage.name));
            }
            stages.push_str(&self.stage_yaml(stage));
        }
        let params = if params.is_empty() { params } else { format!("params:\n{params}") };
        format!("refrain: 1\n{params}stages:\n{stages}")
    }

    fn salt(&self, stage: &Stage) -> String {
        match stage.salt {
            Salt::Value(value) => value.to_string(),
            Salt::Param(i) => format!("\"${{p{i}}}\""),
            Salt::Axis(i) => format!("\"${{a{i}}}\""),
        }
    }

    fn stage_yaml(&self, stage: &Stage) -> String {
        let input = |(i, input): (usize, &Read)| {
            let name = match (stage.file, input) {
                (None, input) => self.reference(input),
                (Some(file), Read::Stage { index, gathered }) if self.is_in(input, file) => {
                    format!("{}{}", self.stages[*index].name, if *gathered { "[*]" } else { "" })
                }
                (Some(_), _) => format!("${{{}_i{i}}}", stage.name),
            };
            format!("i{i}: \"{name}\"")
        };
        let inputs: Vec<String> = stage.inputs.iter().enumerate().map(input).collect();
        let salt = match (stage.file, stage.salt) {
            (Some(_), Salt::Param(_) | Salt::Axis(_)) => format!("\"${{{}_salt}}\"", stage.name),
            _ => self.salt(stage),
        };
        format!(
            "  {}: {{ mix: {{ inputs: {{ {} }}, salt: {salt}, modulus: {} }} }}\n",
            stage.name,
            inputs.join(", "),
            stage.modulus
        )
    }

    fn reference(&self, input: &Read) -> String {
        match *input {
            Read::Source(i) => format!("d{i}"),
            Read::Stage { index, gathered } => {
                let name = self.stages[index].full_name();
                format!("{name}{}", if gathered { "[*]" } else { "" })
            }
        }
    }

    /// The graph that the engine makes of it, its sources in a folder.
    pub fn graph(&self, folder: &Path) -> Graph {
        for file in self.files() {
            std::fs::write(folder.join(format!("part{file}.yaml")), self.part(file)).unwrap();
        }
        let source = SourceText::new(folder.join("w.yaml"), self.yaml());
        let set = self.set.map(|set| match set {
            Set::Param(i, value) => Override { name: format!("p{i}"), value: value.to_string() },
            Set::Axis(i, value) => Override { name: format!("a{i}"), value: value.to_string() },
        });
        let workflow = Workflow::parse(source, &kinds(), set.as_slice())
            .unwrap_or_else(|e| panic!("{e:?}\n{}", self.yaml()));
        Graph::build(workflow).unwrap_or_else(|e| panic!("{e:?}\n{}", self.yaml()))
    }

    /// What every node is made from, by name.
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

impl Stage {
    /// Its name as the workflow's own file knows it.
    fn full_name(&self) -> String {
        self.file.map_or(self.name.clone(), |file| format!("f{file}/{}", self.name))
    }
}

fn node_name(stage: &str, labels: &[String]) -> String {
    if labels.is_empty() { stage.into() } else { format!("{stage}[{}]", labels.join(",")) }
}

/// The number of files that may be included.
const FILES: usize = 2;

/// A file, and what the next stage that runs writes there: an edit during a run.
pub static DURING: Mutex<Option<(PathBuf, String)>> = Mutex::new(None);

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
    static MODEL: &[Param] =
        &[Param::required("model", Type::Reference(Some(ArtifactKind::Model)), "A model")];
    let adapter = |_: &_| vec![OutputDecl { name: MAIN.into(), kind: ArtifactKind::Model }];
    Kinds::new(vec![
        kind("mix", MIX, mix),
        Kind { outputs: adapter, ..kind("train", MODEL, train) },
        kind("apply", MODEL, apply),
        kind("breaks", BREAKS, |_| Err(StageError::failed("it fails as it was told"))),
    ])
}

/// An adapter, the same for every model.
fn train(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let folder = context.cache.new_folder()?;
    folder.write("adapter_config.json", b"{}").unwrap();
    folder.write("adapter_model.safetensors", b"weights").unwrap();
    let base = context.input("model")?.artifact().digest;
    Ok(NodeResult::main(context.cache.store_folder(folder, ArtifactKind::Model, Some(base))?))
}

/// One row with the value of the base model of an adapter.
fn apply(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let Input::Model { folder, adapters, .. } = context.input("model")? else { panic!("no model") };
    assert_eq!(adapters.len(), 1);
    let config = std::fs::read(folder.join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    table(context, config["value"].as_i64().unwrap())
}

/// One row: the sum of all values of all inputs, each input by its place, and the salt; small, so that other inputs
/// often make the same.
fn mix(context: &Context<'_>) -> Result<NodeResult, StageError> {
    if let Some((path, rows)) = DURING.lock().unwrap().take() {
        std::fs::write(path, rows).unwrap();
    }
    let number = |name: &str| context.params[name].as_i64().unwrap();
    let mut sum = number("salt");
    for (path, input) in context.inputs {
        let place: i64 = path.strip_prefix("inputs.i").unwrap().parse().unwrap();
        let batch = TableReader::open(input.path())?.read_all(Some(&["value"]))?;
        let values: &Int64Array = batch.column(0).as_primitive::<Int64Type>();
        sum += (place + 1) * values.values().iter().sum::<i64>();
    }
    table(context, sum % number("modulus"))
}

fn table(context: &Context<'_>, value: i64) -> Result<NodeResult, StageError> {
    let value = Int64Array::from(vec![value]);
    let batch = RecordBatch::try_from_iter([("value", Arc::new(value) as _)]).unwrap();
    let mut table = context.cache.new_table(batch.schema())?;
    table.write(&batch)?;
    Ok(NodeResult::main(context.cache.store_table(table)?))
}
