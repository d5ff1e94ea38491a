//! Stages that choose over an axis: each of their references is read at all values of the axis, and
//! their nodes do not depend on it.

use std::rc::Rc;

use crate::kind::Reference;
use crate::language::diagnostic::{Diagnostic, suggest};
use crate::language::interpolate::{AxisSet, Point};

use super::template::Values;
use super::{Builder, Decl, Frame};

/// A reference, and the point at which it is resolved.
pub(super) struct Wanted {
    pub reference: Reference,
    pub point: Rc<Point>,
    /// The number of the value on the axis that is chosen over.
    pub value: Option<u32>,
}

impl Builder<'_> {
    /// Returns the references of a stage that chooses over an axis, and the axis; of any other
    /// stage its references as they are, and no axis.
    pub(super) fn wanted(
        &mut self,
        decl: Decl,
        point: &Rc<Point>,
        values: &mut Values,
    ) -> (Vec<Wanted>, AxisSet) {
        let at = |point: &Rc<Point>, value: Option<u32>| {
            let point = point.clone();
            move |reference| Wanted { reference, point: point.clone(), value }
        };
        let Some(axis) = self.axis_chosen_over(decl, values) else {
            return (values.references().into_iter().map(at(point, None)).collect(), 0);
        };

        let mut wanted = Vec::new();
        for value in 0..self.sizes[axis] {
            let mut there: Vec<u32> = point.to_vec();
            there[axis] = value;
            let there: Rc<Point> = there.into();
            let template = &mut self.declared[decl].template;
            let found = template.at(&self.values, &there, &mut self.defaults, &mut self.problems);
            if let Some(path) = values.first_difference(&found) {
                let axis = &self.workflow.axes[axis].name;
                let message = format!("`{path}` may not depend on `{axis}`, which is chosen over");
                let span = found.place(&path).unwrap_or(0..0);
                self.problems.push(Diagnostic::at(span, message));
                self.declared[decl].failed = true;
                break;
            }
            values.axes |= found.axes;
            wanted.extend(found.references().into_iter().map(at(&there, Some(value))));
        }
        let hidden = 1 << axis;
        values.axes &= !hidden;
        (wanted, hidden)
    }

    /// Finds the axis that a stage chooses over, by its number.
    fn axis_chosen_over(&mut self, decl: Decl, values: &Values) -> Option<usize> {
        let stage = self.workflow.stages.get(decl.checked_sub(self.workflow.sources.len())?)?;
        let param = stage.kind.over?;
        let values_map = values.to_map();
        let name = values_map.get(param)?.as_str()?;
        let axes = &self.workflow.axes;
        let found = axes.iter().position(|axis| axis.name == name);
        if found.is_none() {
            let known = axes.iter().map(|axis| axis.name.as_str());
            let hint =
                suggest(name, known, "axes are").unwrap_or("declare it under `sweep`".into());
            let span = values.place(param).unwrap_or(stage.name.span.clone());
            let problem = Diagnostic::at(span, format!("there is no axis `{name}`"));
            self.problems.push(problem.hint(hint));
            self.declared[decl].failed = true;
        }
        found
    }

    /// Reports a parameter of a stage that chooses over an axis which is the same at all values of
    /// the axis.
    pub(super) fn check_choice(&mut self, frame: &Frame) -> bool {
        let stage = &self.workflow.stages[frame.decl - self.workflow.sources.len()];
        let Some(param) = stage.kind.over else { return true };
        let values = frame.values.to_map();
        let axis = values.get(param).and_then(|name| name.as_str()).unwrap_or_default();
        let of = |path: &str| path.rsplit_once('[').map(|(path, _)| path.to_owned());
        let mut fine = true;
        for first in frame.edges.iter().filter(|edge| edge.path.ends_with("[0]")) {
            let path = of(&first.path);
            let mut others = frame.edges.iter().filter(|edge| of(&edge.path) == path);
            let same = |edge: &super::Edge| edge.node == first.node && edge.output == first.output;
            let several = frame.edges.iter().filter(|edge| of(&edge.path) == path).count() > 1;
            if several && others.all(same) {
                let path = path.unwrap_or_default();
                let message = format!("`{path}` is the same at all values of `{axis}`");
                let span = frame.values.place(&path).unwrap_or(stage.name.span.clone());
                let hint = format!(
                    "refer to what depends on the axis, for example `tuned.epoch_${{{axis}}}`"
                );
                self.problems.push(Diagnostic::at(span, message).hint(hint));
                fine = false;
            }
        }
        fine
    }
}
