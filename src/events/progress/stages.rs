//! The stages of a run in figures, each on one line: for runs of more nodes than a screen has rows.

use std::collections::HashMap;

use console::{Color, Style};

use super::node::BAR;

/// The stages of a run, in the order of the graph.
#[derive(Default)]
pub struct Stages {
    stages: Vec<Stage>,
    places: HashMap<String, usize>,
}

/// The nodes of a stage by what became of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stage {
    pub name: String,
    pub nodes: u64,
    pub computed: u64,
    pub cached: u64,
    pub running: u64,
    /// Those that failed, and those that read one of them.
    pub failed: u64,
}

impl Stages {
    /// Adds a stage with its number of nodes.
    pub fn add(&mut self, name: &str, nodes: u64) {
        self.stage(name).nodes += nodes;
    }

    /// A stage by its name.
    pub fn stage(&mut self, name: &str) -> &mut Stage {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.stages.push(Stage { name: name.to_owned(), ..Stage::default() });
                self.places.insert(name.to_owned(), self.stages.len() - 1);
                self.stages.len() - 1
            }
        };
        &mut self.stages[place]
    }

    /// Forgets which nodes are under way.
    pub fn clear_running(&mut self) {
        self.stages.iter_mut().for_each(|stage| stage.running = 0);
    }

    /// Returns whether no stage is known.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// The stages that are shown where there is room for so many: those under way first, then those
    /// that failed, that will come, that are done; in the order of the graph.
    pub fn shown(&self, room: usize) -> Vec<&Stage> {
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        order.sort_by_key(|place| self.stages[*place].rank());
        order.truncate(room);
        order.sort_unstable();
        order.into_iter().map(|place| &self.stages[place]).collect()
    }
}

impl Stage {
    fn rank(&self) -> u8 {
        let ended = self.ended();
        match () {
            () if self.running > 0 => 0,
            () if self.failed > 0 => 1,
            () if ended > 0 && ended < self.nodes => 2,
            () if ended == 0 => 3,
            () => 4,
        }
    }

    fn ended(&self) -> u64 {
        self.computed + self.cached + self.failed
    }

    /// The parts of the stage: number, word, sign of its cells, colour.
    fn parts(&self) -> [(u64, &'static str, char, Color); 4] {
        [
            (self.computed, "run", '━', Color::Green),
            (self.cached, "cached", '─', Color::Cyan),
            (self.failed, "failed", '×', Color::Red),
            (self.running, "running", '╸', Color::Yellow),
        ]
    }

    /// A bar of cells that are as many of each part as it has of the nodes.
    pub fn bar(&self, colour: bool) -> String {
        let nodes = self.nodes.max(self.ended() + self.running).max(1);
        let cells = |count: u64| (count as f64 / nodes as f64 * BAR as f64).round() as usize;
        let (mut text, mut sum, mut drawn) = (String::new(), 0, 0);
        for (count, _, sign, of) in self.parts() {
            sum += count;
            let part = sign.to_string().repeat(cells(sum) - drawn);
            drawn = cells(sum);
            text += &painted(&part, of, colour);
        }
        text + &" ".repeat(BAR - drawn)
    }

    /// Says how many nodes there are of each part.
    pub fn words(&self, colour: bool) -> String {
        let parts = self.parts().into_iter().filter(|(count, ..)| *count > 0);
        let words =
            parts.map(|(count, word, _, of)| painted(&format!("{count} {word}"), of, colour));
        let words: Vec<String> = words.collect();
        match words.is_empty() {
            true => format!("{} to run", self.nodes),
            false => format!("{} of {}", words.join(", "), self.nodes),
        }
    }
}

/// Colours a text where that is wanted.
pub fn painted(text: &str, colour: Color, is_wanted: bool) -> String {
    match text.is_empty() {
        true => String::new(),
        false => Style::new().fg(colour).force_styling(is_wanted).apply_to(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(computed: u64, cached: u64, failed: u64, running: u64) -> Stage {
        Stage { name: "tuned".into(), nodes: 40, computed, cached, failed, running }
    }

    #[test]
    fn a_bar_has_cells_in_proportion() {
        let bar = |stage: &Stage| stage.bar(false);
        assert_eq!(bar(&stage(20, 10, 4, 2)), "━━━━━━━━━━─────××╸  ");
        assert_eq!(bar(&stage(0, 0, 0, 0)), " ".repeat(20));
        assert_eq!(bar(&stage(40, 0, 0, 0)), "━".repeat(20));
        // More than was announced is no reason to write beside the bar.
        assert_eq!(bar(&stage(50, 50, 0, 0)).chars().count(), 20);
        assert_eq!(bar(&Stage::default()), " ".repeat(20));
        for n in 0..=40 {
            assert_eq!(bar(&stage(n / 3, n / 3, n / 5, n / 9)).chars().count(), 20);
        }
    }

    #[test]
    fn colours_say_what_became_of_nodes_and_words_say_it_without() {
        let some = stage(12, 3, 1, 2);
        assert_eq!(some.words(false), "12 run, 3 cached, 1 failed, 2 running of 40");
        assert_eq!(stage(0, 0, 0, 0).words(true), "40 to run");
        let coloured = some.words(true);
        for part in ["\u{1b}[32m12 run", "\u{1b}[36m3 cached", "\u{1b}[31m1 failed"] {
            assert!(coloured.contains(part), "{coloured:?}");
        }
        assert!(!some.bar(false).contains('\u{1b}') && some.bar(true).contains("\u{1b}[33m"));
    }

    #[test]
    fn stages_under_way_are_shown_first_and_in_order() {
        let mut stages = Stages::default();
        for (name, computed, running) in [("a", 2, 0), ("b", 1, 0), ("c", 0, 0), ("d", 1, 1)] {
            stages.add(name, 2);
            (stages.stage(name).computed, stages.stage(name).running) = (computed, running);
        }
        let names = |room: usize| -> Vec<&str> {
            stages.shown(room).iter().map(|stage| stage.name.as_str()).collect()
        };
        assert_eq!(names(1), ["d"]);
        assert_eq!(names(2), ["b", "d"]);
        assert_eq!(names(3), ["b", "c", "d"]);
        assert_eq!(names(9), ["a", "b", "c", "d"]);
    }
}
