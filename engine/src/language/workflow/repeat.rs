//! Reads the stages that are repeated: `loop: { repeat: { times, carry: { NAME: STAGE } }, stages:
//! { … }, include: { … } }`.

use std::collections::BTreeSet;

use crate::kind::{Kinds, Param, Type, coerce};
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::language::interpolate::{MAX_SIZE, Names, Scope};
use crate::language::yaml::{Key, Node, ScopeId, Yaml};

use super::parse::Reader;
use super::{Axis, NameScope, Repeat, Stage, Workflow};

/// The parameters of `repeat`.
pub(crate) static PARAMS: &[Param] = &[
    Param::required(
        "times",
        Type::Int { min: 1, max: MAX_ROUNDS as i64 },
        "the number of rounds; it may not depend on an axis",
    ),
    Param::required(
        "carry",
        Type::Map(&Type::Text),
        "`NAME: STAGE`: inside, the name stands for what it stands for outside in the first round, and for the stage of \
         the round before in every other",
    ),
];

/// The name of the axis of rounds.
pub const ROUND: &str = "round";

/// The largest number of rounds.
const MAX_ROUNDS: usize = 1000;

/// Repeated stages as a file has them.
pub(super) struct LoopDecl {
    pub name: Key,
    times: Node,
    carry: Vec<(Key, Node)>,
    /// The place of `repeat`.
    span: Span,
    /// Their names are those of the loop.
    stages: Vec<Stage>,
    /// The files that are included in every round.
    includes: Vec<(Key, Node)>,
}

/// The files that a loop includes.
pub(super) struct LoopIncludes {
    /// The scope of the loop.
    pub scope: ScopeId,
    pub entries: Vec<(Key, Node)>,
}

impl LoopDecl {
    /// The problem of a loop in a file that another loop includes.
    pub fn nested(&self) -> Diagnostic {
        Diagnostic::at(
            self.name.span.clone(),
            "a loop inside a loop: another one includes this file",
        )
        .hint("`repeat` may not be nested: include the file outside of the loop")
    }
}

/// The key that makes a stage a loop.
pub(super) fn is_loop(node: &Node) -> bool {
    node.get("repeat").is_some()
}

impl Reader {
    /// Reads an entry of `stages` that has a `repeat`.
    pub(super) fn repeated(&mut self, name: Key, node: &Node, kinds: &Kinds) -> Option<LoopDecl> {
        for (key, _) in node.entries() {
            if !["repeat", "stages", "include", "description"].contains(&key.text.as_str()) {
                let message = format!("`{}` cannot stand beside `repeat`", key.text);
                let hint = "a loop has `repeat`, `stages` and `include`; a kind and its settings stand in the stages";
                self.problem(Diagnostic::at(key.span.clone(), message).hint(hint));
            }
        }
        let repeat = node.get("repeat")?;
        let before = self.problems.len();
        // The number of rounds is known when the params are.
        let shape = Node { value: shape_of(repeat), ..repeat.clone() };
        coerce(PARAMS, &shape, "`repeat`", &mut self.problems);
        let stages = self.section(node, "stages").to_vec();
        let includes = self.section(node, "include").to_vec();
        if stages.is_empty() && includes.is_empty() {
            let message = format!("the loop `{}` has no stages", name.text);
            let hint = "write them under `stages`, beside `repeat`, or `include` a file of them";
            self.problem(Diagnostic::at(name.span.clone(), message).hint(hint));
            return None;
        }

        let mut inner = Reader::new(self.folder.clone(), std::mem::take(&mut self.source));
        let mut read = Vec::new();
        includes.iter().for_each(|(key, _)| inner.name(key, "an include"));
        for (name, node) in &stages {
            if is_loop(node) {
                let problem = Diagnostic::at(name.span.clone(), "a loop inside a loop");
                self.problem(
                    problem.hint("`repeat` may not be nested: write the stages in one loop"),
                );
                continue;
            }
            inner.name(name, "a stage");
            inner.one_stage(name.clone(), node, kinds, &mut read);
        }
        self.problems.append(&mut inner.problems);
        self.source = inner.source;
        if self.problems.len() > before {
            return None;
        }
        let carry = repeat.get("carry").map_or(Vec::new(), |carry| carry.entries().to_vec());
        self.check_carry(&carry, &read, &includes);
        let (times, span) = (repeat.get("times")?.clone(), repeat.span.clone());
        Some(LoopDecl { name, times, carry, span, stages: read, includes })
    }

    /// Checks that every carried stage is one of the loop, and that no carried name is. The stages
    /// of included files are not known yet.
    fn check_carry(&mut self, carry: &[(Key, Node)], stages: &[Stage], includes: &[(Key, Node)]) {
        let names = || stages.iter().map(|stage| stage.name.text.as_str());
        for (key, node) in carry {
            let written = node.text().unwrap_or_default();
            let stage = written.split('.').next().unwrap_or_default();
            let is_included = |file: &str| includes.iter().any(|(key, _)| key.text == file);
            let may_come = stage.split_once('/').is_some_and(|(file, _)| is_included(file));
            if !may_come && !names().any(|name| name == stage) {
                let message = format!("the loop has no stage `{stage}`");
                let hint = suggest(stage, names(), "its stages are");
                self.problem(Diagnostic::at(node.span.clone(), message).maybe_hint(hint));
            }
            if names().any(|name| name == key.text) {
                let message = format!("`{}` is carried, and a stage of the loop too", key.text);
                let hint = "what is carried is named as outside: give the stage another name";
                self.problem(Diagnostic::at(key.span.clone(), message).hint(hint));
            }
        }
    }
}

/// The parameters of `repeat` as they are checked: with a number in the place of `${…}`, and names
/// without slashes.
fn shape_of(repeat: &Node) -> Yaml {
    let is_param = |node: &Node| matches!(&node.value, Yaml::Text(text) if text.contains("${"));
    let entries = repeat.entries().iter().map(|(key, node)| match key.text.as_str() {
        "times" if is_param(node) => {
            (key.clone(), Node { value: Yaml::Int(1, None), ..node.clone() })
        }
        // A stage of an include or of another loop has a slash in its name.
        "carry" if matches!(node.value, Yaml::Map(_)) => {
            let flat = |(key, node): &(Key, Node)| {
                (Key { text: key.text.replace('/', "_"), ..key.clone() }, node.clone())
            };
            let value = Yaml::Map(node.entries().iter().map(flat).collect());
            (key.clone(), Node { value, ..node.clone() })
        }
        _ => (key.clone(), node.clone()),
    });
    match &repeat.value {
        Yaml::Map(_) => Yaml::Map(entries.collect()),
        other => other.clone(),
    }
}

/// Adds the stages of loops, each loop a scope inside that of its file; returns the files that they
/// include.
pub(super) fn add(
    workflow: &mut Workflow,
    loops: Vec<LoopDecl>,
    outer: ScopeId,
) -> Vec<LoopIncludes> {
    let mut of_loops = Vec::new();
    for LoopDecl { name, times, carry, span, stages, mut includes } in loops {
        let scope = ScopeId(workflow.scopes.len() as u32);
        let NameScope { prefix, folder, .. } = &workflow.scopes[outer.index()];
        let (prefix, folder) = (format!("{prefix}{}/", name.text), folder.clone());
        for mut stage in stages {
            stage.name.text.insert_str(0, &prefix);
            stage.params.moved(0, scope);
            workflow.stages.push(stage);
        }
        let stage_of =
            |node: &Node| Some(Key { text: node.text()?.into_owned(), span: node.span.clone() });
        let carry = carry.into_iter().filter_map(|(key, node)| Some((key, stage_of(&node)?)));
        let repeat = Repeat { times, rounds: 1, carry: carry.collect(), span };
        workflow.scopes.push(NameScope {
            prefix,
            folder,
            outer: Some(outer),
            repeat: Some(repeat),
            ..NameScope::default()
        });
        if !includes.is_empty() {
            // What is handed in is of the round.
            includes.iter_mut().for_each(|(_, node)| node.moved(0, scope));
            of_loops.push(LoopIncludes { scope, entries: includes });
        }
    }
    of_loops
}

/// Checks that the carried stages of included files are there.
pub(super) fn check_carried(workflow: &Workflow, problems: &mut Vec<Diagnostic>) {
    let stages: BTreeSet<&str> =
        workflow.stages.iter().map(|stage| stage.name.text.as_str()).collect();
    for NameScope { prefix, repeat, .. } in &workflow.scopes {
        for (_, carried) in repeat.iter().flat_map(|repeat| &repeat.carry) {
            let stage = carried.text.split('.').next().unwrap_or_default();
            if !stages.contains(format!("{prefix}{stage}").as_str()) {
                let known = stages.iter().filter_map(|name| name.strip_prefix(&**prefix));
                let hint = suggest(stage, known, "its stages are");
                let message = format!("the loop has no stage `{stage}`");
                problems.push(Diagnostic::at(carried.span.clone(), message).maybe_hint(hint));
            }
        }
    }
}

/// Counts the rounds of all loops, and adds their axis.
pub(super) fn count_rounds(workflow: &mut Workflow, problems: &mut Vec<Diagnostic>) {
    let names = Names::new(workflow);
    let point = vec![0; workflow.axes.len()];
    let mut counted: Vec<(usize, u32)> = Vec::new();
    for (number, scope) in workflow.scopes.iter().enumerate() {
        let Some(Repeat { times, .. }) = &scope.repeat else { continue };
        let mut axes = 0;
        match Scope::new(&names, &point, MAX_SIZE).resolve(times, &mut axes) {
            Err(problem) => problems.push(problem),
            Ok(_) if axes != 0 => {
                let message = "the number of rounds may not depend on an axis";
                let hint = "repeat as often as the largest number wants: `round` is an axis, and every round is a node";
                problems.push(Diagnostic::at(times.span.clone(), message).hint(hint));
            }
            Ok(found) => match found.value {
                Yaml::Int(rounds, _) if (1..=MAX_ROUNDS as i64).contains(&rounds) => {
                    counted.push((number, rounds as u32));
                }
                _ => {
                    let message = format!("`times` must be a whole number from 1 to {MAX_ROUNDS}");
                    let label = match found.text() {
                        Some(text) => format!("this is {text}"),
                        None => format!("this is {}", found.type_name()),
                    };
                    problems.push(Diagnostic::at(times.span.clone(), message).label(label));
                }
            },
        }
    }
    drop(names);

    let mut span = None;
    for (number, rounds) in &counted {
        if let Some(repeat) = &mut workflow.scopes[*number].repeat {
            repeat.rounds = *rounds;
            span.get_or_insert(repeat.span.clone());
        }
    }
    let most = counted.iter().map(|(_, rounds)| *rounds).max();
    if let (Some(most), Some(span)) = (most, span) {
        let value = |round: u32| {
            let node = Node::new(span.clone(), Yaml::Int(round.into(), None));
            (round.to_string(), node)
        };
        let (name, values) = (ROUND.to_string(), (1..=most).map(value).collect());
        workflow.rounds = Some(workflow.axes.len());
        let fields = Default::default();
        workflow.axes.push(Axis { name, span: span.clone(), values, points: false, fields });
    }
}
