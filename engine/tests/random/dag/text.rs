//! The files of a random workflow: its text, the included files, sources and models.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::{Dag, FILES, Read, Rounds, Salt, Stage};

impl Dag {
    /// The text of a source.
    pub(super) fn rows(&self, i: usize) -> String {
        let row = |(n, value)| format!("{{\"id\": \"r{n}\", \"value\": {value}}}\n");
        self.sources[i].iter().enumerate().map(row).collect()
    }

    /// Writes the sources and models. All have one time and, where no row was added, one size: a
    /// change is to be noticed all the same.
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
    pub(super) fn files(&self) -> Vec<usize> {
        let has = |file: &usize| self.stages.iter().any(|stage| stage.file == Some(*file));
        (0..FILES).filter(has).collect()
    }

    /// Whether an input is a stage of an included file.
    fn is_in(&self, input: &Read, file: usize) -> bool {
        matches!(input, Read::Stage { index, .. } if self.stages[*index].file == Some(file))
    }

    /// The text of an included file.
    pub(super) fn part(&self, file: usize) -> String {
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
}
