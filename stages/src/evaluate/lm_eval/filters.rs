//! Finds answers in responses by the filters of a task file.

use std::borrow::Cow;

use refrain_engine::kind::{Problem, StageError};

use crate::lm_eval::{Function, OutputType, Pipeline, Step};
use crate::python_regex::PythonRegex;

/// The pattern and the fallback where a filter names none, as lm-evaluation-harness has them.
const PATTERN: &str = r"#### (\-?[0-9\.\,]+)";
const FALLBACK: &str = "[invalid]";

/// The ends of the names of metrics, one for each way to find answers; an empty one where the task
/// names no ways.
pub(super) fn suffixes(pipelines: Option<&[Pipeline]>) -> Vec<String> {
    match pipelines {
        None => vec![String::new()],
        Some(pipelines) => pipelines.iter().map(|one| format!("_{}", word(&one.name))).collect(),
    }
}

/// A name as metrics have them.
fn word(name: &str) -> String {
    let sign = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(sign).collect()
}

pub(super) fn check(pipelines: Option<&[Pipeline]>, of: OutputType, problems: &mut Vec<Problem>) {
    let Some(pipelines) = pipelines else { return };
    if of != OutputType::GenerateUntil {
        let message = format!("`filter_list` is not supported beside `output_type: {}`", of.word());
        problems.push(Problem::at("task.lm_eval.filter_list", message));
        return;
    }
    if pipelines.is_empty() {
        problems.push(Problem::at("task.lm_eval.filter_list", "it names no filter"));
    }
    for (number, pipeline) in pipelines.iter().enumerate() {
        let at = format!("task.lm_eval.filter_list[{number}]");
        let same = |other: &Pipeline| word(&other.name) == word(&pipeline.name);
        if word(&pipeline.name).is_empty() || pipeline.name.len() > 60 {
            let message = "a filter's name has 1 to 60 characters";
            problems.push(Problem::at(format!("{at}.name"), message));
        } else if pipelines[..number].iter().any(same) {
            let message = format!("the name `{}` is that of an earlier filter", pipeline.name);
            problems.push(Problem::at(format!("{at}.name"), message));
        }
        let last = pipeline.filter.len().checked_sub(1);
        let first_take = pipeline.filter.iter().position(|s| s.function == Function::TakeFirst);
        if first_take.is_none() || first_take != last {
            let message = "`take_first` must be its last step, and no other";
            problems.push(Problem::at(format!("{at}.filter"), message));
        }
        for (step, Step { function, regex_pattern, .. }) in pipeline.filter.iter().enumerate() {
            let at = format!("{at}.filter[{step}].regex_pattern");
            match (function, regex_pattern) {
                (Function::Regex, Some(pattern)) => check_regex(at, pattern, problems),
                (_, Some(_)) => {
                    let message = format!("`{}` takes no pattern", function.word());
                    problems.push(Problem::at(at, message));
                }
                _ => {}
            }
        }
    }
}

pub(super) fn check_regex(at: String, pattern: &str, problems: &mut Vec<Problem>) {
    if let Err(why) = PythonRegex::new(pattern) {
        let message = format!("the pattern cannot be used: {why}");
        problems.push(
            Problem::at(at, message)
                .hint("patterns are those of Python without look-around and references to groups"),
        );
    }
}

/// The ways to find answers.
pub(super) struct Pipelines(Vec<Vec<Filter>>);

/// A step.
enum Filter {
    Regex { pattern: PythonRegex, select: i64, fallback: String },
    Strip,
    Lower,
    Upper,
}

/// An answer, and whether it is the fallback of a pattern.
pub(super) struct Answer<'t> {
    pub text: Cow<'t, str>,
    pub is_fallback: bool,
}

impl Pipelines {
    pub fn new(pipelines: Option<&[Pipeline]>) -> Result<Pipelines, StageError> {
        let Some(pipelines) = pipelines else { return Ok(Pipelines(vec![Vec::new()])) };
        let filters =
            |one: &Pipeline| one.filter.iter().filter_map(|s| filter(s).transpose()).collect();
        pipelines.iter().map(filters).collect::<Result<_, _>>().map(Pipelines)
    }

    /// The answers in a response, one for each way.
    ///
    /// # Errors
    /// A match that is not there, as a fragment.
    pub fn answers<'t>(&self, response: &'t str) -> Result<Vec<Answer<'t>>, String> {
        let one = |filters: &Vec<Filter>| {
            let mut answer = Answer { text: Cow::Borrowed(response), is_fallback: false };
            for filter in filters {
                answer = filter.apply(answer)?;
            }
            Ok(answer)
        };
        self.0.iter().map(one).collect()
    }
}

fn filter(step: &Step) -> Result<Option<Filter>, StageError> {
    Ok(Some(match step.function {
        Function::TakeFirst => return Ok(None),
        Function::RemoveWhitespace => Filter::Strip,
        Function::Lowercase => Filter::Lower,
        Function::Uppercase => Filter::Upper,
        Function::Regex => Filter::Regex {
            pattern: PythonRegex::new(step.regex_pattern.as_deref().unwrap_or(PATTERN))
                .map_err(StageError::bug)?,
            select: step.group_select.unwrap_or(0),
            fallback: step.fallback.clone().unwrap_or_else(|| FALLBACK.to_owned()),
        },
    }))
}

impl Filter {
    fn apply<'t>(&self, answer: Answer<'t>) -> Result<Answer<'t>, String> {
        let Answer { text, is_fallback } = answer;
        let text = match self {
            Filter::Strip => Cow::Owned(strip(&text).to_owned()),
            Filter::Lower => Cow::Owned(text.to_lowercase()),
            Filter::Upper => Cow::Owned(text.to_uppercase()),
            Filter::Regex { pattern, select, fallback } => {
                let found = pattern.find_all(&text);
                if found.is_empty() {
                    return Ok(Answer { text: Cow::Owned(fallback.clone()), is_fallback: true });
                }
                let at = if *select < 0 { found.len() as i64 + select } else { *select };
                let chosen = usize::try_from(at).ok().and_then(|at| found.get(at));
                let Some(chosen) = chosen else {
                    let count = found.len();
                    return Err(format!(
                        "`group_select` is {select}, and there are {count} matches"
                    ));
                };
                let text = Cow::Owned(strip(chosen.unwrap_or(fallback)).to_owned());
                return Ok(Answer { text, is_fallback: chosen.is_none() });
            }
        };
        Ok(Answer { text, is_fallback })
    }
}

/// The text without white space around it, as Python's `strip` takes it off.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}
