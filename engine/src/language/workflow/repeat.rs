//! Reads the stages that are repeated: `loop: { repeat: { times, carry: { NAME: STAGE } }, stages:
//! { … } }`.

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
}

/// The key that makes a stage a loop.
pub(super) fn is_loop(node: &Node) -> bool {
    node.get("repeat").is_some()
}

impl Reader {
    /// Reads an entry of `stages` that has a `repeat`.
    pub(super) fn repeated(&mut self, name: Key, node: &Node, kinds: &Kinds) -> Option<LoopDecl> {
        for (key, _) in node.entries() {
            if !["repeat", "stages", "description"].contains(&key.text.as_str()) {
                let message = format!("`{}` cannot stand beside `repeat`", key.text);
                let hint =
                    "a loop has `repeat` and `stages`; a kind and its settings stand in the stages";
                self.problem(Diagnostic::at(key.span.clone(), message).hint(hint));
            }
        }
        let repeat = node.get("repeat")?;
        let before = self.problems.len();
        // The number of rounds is known when the params are.
        let shape = Node { value: shape_of(repeat), ..repeat.clone() };
        coerce(PARAMS, &shape, "`repeat`", &mut self.problems);
        let stages = match node.get("stages").map(|stages| &stages.value) {
            Some(Yaml::Map(entries)) if !entries.is_empty() => entries.clone(),
            _ => {
                let message = format!("the loop `{}` has no stages", name.text);
                self.problem(
                    Diagnostic::at(name.span.clone(), message)
                        .hint("write them under `stages`, beside `repeat`"),
                );
                return None;
            }
        };

        let mut inner = Reader::new(self.folder.clone(), std::mem::take(&mut self.source));
        let mut read = Vec::new();
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
        self.check_carry(&carry, &read);
        let (times, span) = (repeat.get("times")?.clone(), repeat.span.clone());
        Some(LoopDecl { name, times, carry, span, stages: read })
    }

    /// Checks that every carried stage is one of the loop, and that no carried name is.
    fn check_carry(&mut self, carry: &[(Key, Node)], stages: &[Stage]) {
        let names = || stages.iter().map(|stage| stage.name.text.as_str());
        for (key, node) in carry {
            let written = node.text().unwrap_or_default();
            let stage = written.split('.').next().unwrap_or_default();
            if !names().any(|name| name == stage) {
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

/// Adds the stages of loops, each loop a scope inside that of its file.
pub(super) fn add(workflow: &mut Workflow, loops: Vec<LoopDecl>, outer: ScopeId) {
    for LoopDecl { name, times, carry, span, stages } in loops {
        let scope = ScopeId(workflow.scopes.len() as u32);
        let NameScope { prefix, folder, .. } = &workflow.scopes[outer.index()];
        let (prefix, folder) = (format!("{prefix}{}/", name.text), folder.clone());
        for mut stage in stages {
            stage.name.text.insert_str(0, &prefix);
            stage.params.moved(0, scope);
            workflow.stages.push(stage);
        }
        let carry =
            carry.into_iter().filter_map(|(key, node)| Some((key, node.text()?.into_owned())));
        let repeat = Repeat { times, rounds: 1, carry: carry.collect(), span };
        workflow.scopes.push(NameScope {
            prefix,
            folder,
            outer: Some(outer),
            repeat: Some(repeat),
            ..NameScope::default()
        });
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
