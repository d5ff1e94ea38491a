//! Resolves names in loops: what a round carries from the one before, and the last round from
//! outside.

use std::borrow::Cow;
use std::rc::Rc;

use crate::kind::Reference;
use crate::language::diagnostic::Diagnostic;
use crate::language::interpolate::{AxisSet, Point};
use crate::language::workflow::Repeat;
use crate::language::yaml::ScopeId;

use super::{Builder, Decl};

/// The meaning of a name in a reference.
pub(super) struct Named<'n> {
    pub decl: Decl,
    /// The output that the name gives behind a point.
    pub output: Option<Cow<'n, str>>,
    /// The point at which it is wanted, where that is not the one of the reference.
    pub point: Option<Rc<Point>>,
    /// The axes that the choice of the point depends on.
    pub axes: AxisSet,
    /// The axes that it does not depend on, although the node does.
    pub hidden: AxisSet,
}

impl Builder<'_> {
    /// Finds what a name stands for, from the scope of the reference outwards.
    ///
    /// # Errors
    /// The part of the name that was looked for and is not there.
    pub(super) fn named<'n>(
        &self,
        reference: &Reference,
        plain: &'n str,
        point: &Point,
        over_rounds: bool,
    ) -> Result<Named<'n>, &'n str> {
        let (head, rest) = plain.split_once('.').unwrap_or((plain, ""));
        let output = (!rest.is_empty()).then_some(Cow::Borrowed(rest));
        let mut scope = Some(reference.scope);
        let mut carried = 0;
        while let Some(here) = scope {
            let names = &self.workflow.scopes[here.index()];
            if let (Some(repeat), Some(axis)) = (&names.repeat, self.workflow.rounds)
                && let Some((_, stage)) = repeat.carry.iter().find(|(key, _)| key.text == head)
            {
                carried |= 1 << axis;
                if point[axis] > 0 {
                    let stage = stage.text.as_str();
                    let (stage, own) = stage.split_once('.').unwrap_or((stage, ""));
                    let own = (!own.is_empty()).then(|| Cow::Owned(own.to_owned()));
                    let decl = self.decl(here, stage).ok_or(head)?;
                    let point = Some(self.at_round(point, axis, point[axis] - 1));
                    let output = output.or(own);
                    return Ok(Named { decl, output, point, axes: carried, hidden: 0 });
                }
            } else if let Some(decl) = self.decl(here, head) {
                let (point, hidden) = match over_rounds {
                    true => (None, 0),
                    false => self.last_round(decl, reference.scope, point),
                };
                return Ok(Named { decl, output, point, axes: carried, hidden });
            }
            scope = names.outer;
        }
        Err(head)
    }

    /// Finds a stage or source by its name in a scope alone.
    fn decl(&self, scope: ScopeId, name: &str) -> Option<Decl> {
        let prefix = &self.workflow.scopes[scope.index()].prefix;
        let name: Cow<'_, str> =
            if prefix.is_empty() { name.into() } else { format!("{prefix}{name}").into() };
        self.names.get(&*name).copied()
    }

    /// Returns the last round of a stage of a loop that `scope` is not inside of.
    fn last_round(
        &self,
        decl: Decl,
        scope: ScopeId,
        point: &Point,
    ) -> (Option<Rc<Point>>, AxisSet) {
        let (Some(repeat), Some(axis)) = (self.repeat(decl), self.workflow.rounds) else {
            return (None, 0);
        };
        if self.workflow.loop_of(scope) == self.workflow.loop_of(self.scope(decl)) {
            return (None, 0);
        }
        (Some(self.at_round(point, axis, repeat.rounds - 1)), 1 << axis)
    }

    fn at_round(&self, point: &Point, axis: usize, round: u32) -> Rc<Point> {
        let mut there = point.to_vec();
        there[axis] = round;
        there.into()
    }

    /// Returns the scope in which a declaration stands.
    fn scope(&self, decl: Decl) -> ScopeId {
        let sources = self.workflow.sources.len();
        match self.workflow.sources.get(decl) {
            Some(source) => source.node.scope,
            None => self.workflow.stages[decl - sources].params.scope,
        }
    }

    /// Returns the loop in which a declaration stands, itself or with its file.
    fn repeat(&self, decl: Decl) -> Option<&Repeat> {
        let found = self.workflow.loop_of(self.scope(decl))?;
        self.workflow.scopes[found.index()].repeat.as_ref()
    }

    /// Whether a declaration has a node at a point: of a loop only while its rounds last.
    pub(super) fn has_round(&self, decl: Decl, point: &Point) -> bool {
        let (Some(axis), Some(repeat)) = (self.workflow.rounds, self.repeat(decl)) else {
            return true;
        };
        point[axis] < repeat.rounds
    }

    /// Returns the round of a point; 0 where there are none.
    pub(super) fn round(&self, point: &Point) -> u32 {
        self.workflow.rounds.map_or(0, |axis| point[axis])
    }

    /// The problem of a carried name that is gathered.
    pub(super) fn check_gathered(&mut self, reference: &Reference, named: &Named<'_>) -> bool {
        if named.axes == 0 {
            return true;
        }
        let message =
            format!("`{}` is carried from round to round, and cannot be gathered", reference.name);
        let hint = "gather the stage that is carried: `STAGE[*]` has all its rounds";
        self.problems.push(Diagnostic::at(reference.span.clone(), message).hint(hint));
        false
    }
}
