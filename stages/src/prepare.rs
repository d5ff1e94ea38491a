//! The kind `prepare`: writes what a model is asked for each document of a task.
//!
//! A task is a file of lm-evaluation-harness. Its documents become prompts, which `generate`
//! answers, or prompts with continuations, which `score` scores: one for each option of a question.

mod document;
mod examples;
mod literal;
mod prompt;
mod python_random;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use serde_json::{Map, Value};

use refrain_cache::TableReader;
use refrain_cache::columns::with_column;
use refrain_engine::kind::{
    Check, Columns, Context, Kind, MetricDecl, NodeResult, Parameters, Problem, StageError, Table,
    parameters,
};

use crate::canonical::FindModel;
use crate::components;
use crate::lm_eval::{self, OutputType, TaskFile, TaskInFile};
use crate::prompts::row_error;
use crate::tables::{self, BATCH_ROWS, arrow_bug, list_of, metric, with_fields};

use document::{Document, Field, documents, python_str};
use examples::{Examples, Pool};
use prompt::{Form, Wrong};

/// The seed of lm-evaluation-harness where none is given.
const SEED: u32 = 1234;

/// The columns of what is asked and what counts as its answer.
const COLUMNS: [&str; 7] =
    ["prompt", "response", "reference", "targets", "option", "choice", "is_target"];

/// The kind `prepare`.
pub const PREPARE: Kind = Kind {
    name: "prepare",
    about: "Writes what a model is asked for each document of a task: its `prompt` and `reference`, and a \
            `response` where that is scored",
    components: &[components::PREPARE, components::TABLE],
    versions: None,
    params: PrepareParams::PARAMS,
    // Those that a table of another origin has too are no hint at this kind.
    adds: &["targets", "option", "choice", "is_target"],
    outputs: tables::table_and_metrics,
    metrics: &[
        MetricDecl::always("documents", "Documents of the task"),
        MetricDecl::always("rows", "Prompts, one for each option of a question"),
    ],
    check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: false,
    retryable: false,
    tokens: None,
    over: None,
    served: &[],
    memory: None,
    requests: None,
    run,
};

parameters! {
    /// The parameters of `prepare`.
    struct PrepareParams {
        /// The table with the documents
        #[alias("dataset")]
        data: &Table,
        /// The task
        task: TaskInFile,
        /// The table with the examples, where the task takes them from another split than it asks
        fewshot: Option<&Table>,
        /// Examples before each question, in place of the task's number
        #[range(0..=1000)]
        num_fewshot: Option<u64>,
        /// Which examples are drawn; 1234 without it, as in lm-evaluation-harness
        #[range(0..=4_294_967_295)]
        fewshot_seed: Option<u64>,
    }
}

fn canonicalize(params: &mut Map<String, Value>, _: FindModel<'_>) {
    lm_eval::keep_prompts(params);
    crate::canonical::remove_default(params, "fewshot_seed", &SEED.into());
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let Ok(task) = lm_eval::task_file(check.params) else { return None };
    let at = |key: &str| format!("task.lm_eval.{key}");
    if task.repeats.is_some_and(|repeats| repeats != 1) {
        let problem = Problem::at(at("repeats"), "only `repeats: 1` is supported");
        problems.push(problem.hint("`samples` beside the task generates several responses"));
    }
    if output_type(&task) == OutputType::MultipleChoice && task.doc_to_choice.is_none() {
        let message = "`output_type: multiple_choice` needs `doc_to_choice`";
        problems.push(Problem::at(at("output_type"), message));
    }
    check_examples(check, &task, problems);

    let schema = (check.columns)("data");
    // Where the columns are not known yet, a name without braces may be one.
    let is_column = |name: &str| match &schema {
        Some(schema) => schema.field_with_name(name).is_ok(),
        None => !name.contains(['{', ' ']),
    };
    let config = task.fewshot_config.as_ref();
    let forms = [Form::new(&task, &is_column), Form::of_examples(&task, config, &is_column)];
    let description = task.description.as_deref().map(|text| Field::new(text, &|_| false));
    let description =
        description.and_then(Result::err).map(|why| Wrong { field: "description", why });
    for Wrong { field, why } in forms.into_iter().filter_map(Result::err).take(1).chain(description)
    {
        problems.push(Problem::at(at(field), format!("`{field}` cannot be read: {why}")));
    }
    schema.map(|schema| output_schema(&schema, output_type(&task)))
}

/// The tables and numbers of examples.
fn check_examples(check: &Check<'_>, task: &TaskFile, problems: &mut Vec<Problem>) {
    let has_table = check.inputs.iter().any(|input| input == "fewshot");
    let Some(count) = task.num_fewshot else {
        let message = "no examples are wanted: `num_fewshot` is 0";
        problems.extend(has_table.then(|| Problem::at("fewshot", message)));
        return;
    };
    if let Some(samples) = examples::samples(task)
        && let Some(number) = samples.iter().position(|sample| !sample.is_object())
    {
        let at = format!("task.lm_eval.fewshot_config.samples[{number}]");
        problems.push(Problem::at(at, "an example is not a mapping"));
    }
    match Pool::of(task, has_table) {
        Err(split) => {
            let message =
                format!("{count} examples are taken from the split `{split}`, which `data` is not");
            problems.push(Problem::at("", message).hint(
                "name a table with its documents: `fewshot: TABLE`; or write `num_fewshot: 0`",
            ));
        }
        Ok(Pool::Samples) if has_table => {
            problems.push(Problem::at("fewshot", "the task brings its own examples"));
        }
        Ok(_) => {}
    }
}

fn output_type(task: &TaskFile) -> OutputType {
    task.output_type.unwrap_or(OutputType::GenerateUntil)
}

/// The columns that requests of a type have.
fn columns(of: OutputType) -> Vec<(&'static str, DataType)> {
    let text = |name| (name, DataType::Utf8);
    let mut columns = vec![text("prompt"), text("reference")];
    match of {
        OutputType::GenerateUntil => columns.push(("targets", list_of(DataType::Utf8))),
        OutputType::Loglikelihood => columns.push(text("response")),
        OutputType::MultipleChoice => columns.extend([
            text("response"),
            ("option", DataType::Int32),
            text("choice"),
            ("is_target", DataType::Boolean),
        ]),
    }
    columns
}

/// The columns of the documents and ours; those of our names say something else.
fn output_schema(input: &Schema, of: OutputType) -> SchemaRef {
    let kept = input.fields().iter().filter(|field| !COLUMNS.contains(&field.name().as_str()));
    with_fields(&Schema::new(kept.cloned().collect::<Vec<_>>()), &columns(of))
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: PrepareParams = ctx.parameters()?;
    let mut writer = Writer::new(ctx, &params)?;
    let input = TableReader::open(ctx.table("data")?)?;
    let mut out = ctx.cache.new_table(writer.schema.clone())?;
    let (mut first, mut requests) = (0, 0);
    for batch in input.batches(None, BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let written = writer.batch(&batch, first)?;
        requests += written.num_rows() as u64;
        out.write(&written)?;
        first += batch.num_rows() as u64;
        ctx.progress.set(first, Some(input.rows()), "documents");
    }
    ctx.progress.note("the documents are those of `data`; `dataset_path` and what else names a data set in the task file is passed over");
    let metrics =
        vec![metric("documents", first as f64, first), metric("rows", requests as f64, first)];
    Ok(NodeResult { metrics, ..NodeResult::main(ctx.cache.store_table(out)?) })
}

/// Writes the requests of one document after the other.
struct Writer {
    of: OutputType,
    description: Option<Field>,
    question: Form,
    example: Form,
    examples: Option<Examples>,
    /// Whether the first document has several answers: one text alone is then one of several, too.
    has_several: Option<bool>,
    schema: SchemaRef,
}

/// The requests of a document.
struct Request {
    prompt: String,
    /// What is scored, for each option; one without options, none where it is generated.
    continuations: Vec<String>,
    choices: Vec<String>,
    targets: Vec<String>,
    /// The numbers of the options that are right.
    right: Vec<usize>,
}

impl Writer {
    fn new(ctx: &Context<'_>, params: &PrepareParams) -> Result<Writer, StageError> {
        let task = lm_eval::task_file(ctx.params)?;
        let input = TableReader::open(ctx.table("data")?)?;
        let is_column = |name: &str| input.schema().field_with_name(name).is_ok();
        let seed = params.fewshot_seed.map_or(SEED, |seed| seed as u32);
        let count = task.num_fewshot.unwrap_or(0) as usize;
        let examples = (count > 0).then(|| Examples::new(ctx, &task, count, seed)).transpose()?;
        let unread =
            |Wrong { field, why }| StageError::failed(format!("`{field}` cannot be read: {why}"));
        let description = task.description.as_deref().filter(|text| !text.is_empty());
        let description = description.map(|text| Field::new(text, &is_column)).transpose();
        let config = task.fewshot_config.as_ref();
        Ok(Writer {
            of: output_type(&task),
            description: description.map_err(|why| unread(Wrong { field: "description", why }))?,
            question: Form::new(&task, &is_column).map_err(unread)?,
            example: Form::of_examples(&task, config, &is_column).map_err(unread)?,
            examples,
            has_several: None,
            schema: output_schema(input.schema(), output_type(&task)),
        })
    }

    fn batch(&mut self, batch: &RecordBatch, first: u64) -> Result<RecordBatch, StageError> {
        let mut requests = Vec::with_capacity(batch.num_rows());
        for (row, document) in documents(batch)?.iter().enumerate() {
            let request = self.request(document);
            requests.push(request.map_err(|Wrong { field, why }| {
                row_error(batch, row, first, &format!("`{field}` of the task: {why}"))
            })?);
        }
        self.rows(batch, &requests)
    }

    fn request(&mut self, document: &Document) -> Result<Request, Wrong> {
        let mut prompt = String::new();
        if let Some(description) = &self.description {
            let text = description.text(document);
            prompt += &text.map_err(|why| Wrong { field: "description", why })?;
        }
        if let Some(examples) = &mut self.examples {
            let chosen = examples.of(document);
            for example in chosen.map_err(|why| Wrong { field: "num_fewshot", why })? {
                self.example.example(example, &mut prompt)?;
            }
        }
        self.question.question(document, &mut prompt)?;

        let target = self.question.target(document)?;
        let choices = self.question.choices(document)?;
        let several = *self.has_several.get_or_insert(target.is_array());
        match (self.of, choices) {
            (OutputType::MultipleChoice, choices) => {
                let choices = choices.unwrap_or_default();
                let right = right(&target, &choices)?;
                let delimiter = &self.question.target_delimiter;
                let continuations = choices.iter().map(|choice| format!("{delimiter}{choice}"));
                let targets = right.iter().map(|number| choices[*number].clone()).collect();
                let continuations = continuations.collect();
                Ok(Request { prompt, continuations, choices, targets, right })
            }
            (OutputType::Loglikelihood, _) => {
                let Value::String(target) = target else {
                    let why = format!("it is not a text but {}", python_str(&target));
                    return Err(Wrong { field: "doc_to_target", why });
                };
                let (continuations, targets) = (vec![target.clone()], vec![target]);
                let (choices, right) = (Vec::new(), Vec::new());
                Ok(Request { prompt, continuations, choices, targets, right })
            }
            (OutputType::GenerateUntil, choices) => {
                let targets = match (choices, &target) {
                    (Some(choices), _) => {
                        let right = right(&target, &choices)?;
                        right.iter().map(|number| choices[*number].clone()).collect()
                    }
                    (None, Value::Array(items)) if several => {
                        items.iter().map(python_str).collect()
                    }
                    (None, _) => vec![python_str(&target)],
                };
                let (continuations, choices, right) = (Vec::new(), Vec::new(), Vec::new());
                Ok(Request { prompt, continuations, choices, targets, right })
            }
        }
    }

    /// The rows of the requests, with the columns of their documents.
    fn rows(&self, batch: &RecordBatch, requests: &[Request]) -> Result<RecordBatch, StageError> {
        let times = |request: &Request| request.continuations.len().max(1);
        let each = || {
            requests.iter().enumerate().flat_map(|(at, one)| (0..times(one)).map(move |n| (at, n)))
        };
        let numbers = UInt32Array::from_iter_values(each().map(|(at, _)| at as u32));
        let documents = take_record_batch(batch, &numbers).map_err(arrow_bug)?;
        let kept: Vec<usize> = (0..documents.num_columns())
            .filter(|at| !COLUMNS.contains(&documents.schema_ref().field(*at).name().as_str()))
            .collect();
        let mut out = documents.project(&kept).map_err(arrow_bug)?;
        let text = |of: &dyn Fn(&Request, usize) -> Option<&str>| -> ArrayRef {
            Arc::new(
                each()
                    .map(|(at, n)| of(&requests[at], n).map(str::to_owned))
                    .collect::<StringArray>(),
            )
        };
        for (name, _) in columns(self.of) {
            let array: ArrayRef = match name {
                "prompt" => text(&|one, _| Some(&one.prompt)),
                "reference" => text(&|one, _| one.targets.first().map(String::as_str)),
                "response" => text(&|one, n| one.continuations.get(n).map(String::as_str)),
                "choice" => text(&|one, n| one.choices.get(n).map(String::as_str)),
                "option" => Arc::new(Int32Array::from_iter_values(each().map(|(_, n)| n as i32))),
                "is_target" => {
                    let is = |(at, n): (usize, usize)| Some(requests[at].right.contains(&n));
                    Arc::new(each().map(is).collect::<BooleanArray>())
                }
                _ => {
                    let mut lists = ListBuilder::new(StringBuilder::new());
                    each().for_each(|(at, _)| {
                        lists.append_value(requests[at].targets.iter().map(Some));
                    });
                    Arc::new(lists.finish())
                }
            };
            out = with_column(&out, name, array)?;
        }
        Ok(out)
    }
}

/// The numbers of the options that are right: given by number, by text, or a list of numbers.
fn right(target: &Value, choices: &[String]) -> Result<Vec<usize>, Wrong> {
    let one = |target: &Value| {
        let number = match target {
            Value::String(text) => choices.iter().position(|choice| choice == text),
            other => other.as_u64().map(|number| number as usize),
        };
        number.filter(|number| *number < choices.len()).ok_or_else(|| {
            let (target, last) = (python_str(target), choices.len().saturating_sub(1));
            let why = format!("it is {target}, which is none of the options 0 to {last}");
            Wrong { field: "doc_to_target", why }
        })
    };
    match target {
        Value::Array(items) => items.iter().map(one).collect(),
        target => Ok(vec![one(target)?]),
    }
}
