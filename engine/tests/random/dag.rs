//! A random workflow and the edits of it.

mod kinds;
mod text;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use proptest::prelude::*;

use refrain_engine::graph::Graph;
use refrain_engine::language::diagnostic::SourceText;
use refrain_engine::language::workflow::{Override, Workflow};

use kinds::kinds;

/// The origin of a node: its kind, its parameters, and what its inputs hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    kind: &'static str,
    params: String,
    inputs: Vec<String>,
}

/// The content of a table: all of it as text, and the sum of its values.
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
}

impl Stage {
    /// Its name as the workflow's own file knows it.
    fn full_name(&self) -> String {
        self.file.map_or(self.name.clone(), |file| format!("f{file}/{}", self.name))
    }
}

/// The number of files that may be included.
const FILES: usize = 2;

/// A file, and what the next stage that runs writes there: an edit during a run.
pub static DURING: Mutex<Option<(PathBuf, String)>> = Mutex::new(None);
