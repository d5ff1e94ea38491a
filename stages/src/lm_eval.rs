//! The task files of lm-evaluation-harness, as far as they need no Python.

use serde_json::{Map, Value};

use refrain_engine::kind::{FileContent, InFile, StageError, choices, one_of, parameters};

use crate::canonical;

parameters! {
    /// The parameter `task`, where it names a file.
    pub(crate) struct TaskInFile {
        /// A task file of lm-evaluation-harness (docs/lm-eval.md)
        lm_eval: InFile<TaskFile>,
    }
}

parameters! {
    /// The keys of a task file; a stage keeps those that it depends on.
    #[allow(dead_code, reason = "what is for people, or of the data set, is passed over")]
    pub(crate) struct TaskFile {
        /// Its name
        task: Option<String>,
        /// Its name in tables of results
        task_alias: Option<String>,
        /// The groups that it is of
        tag: Option<Value>,
        /// The data set
        dataset_path: Option<String>,
        /// The part of the data set
        dataset_name: Option<String>,
        /// How the data set is loaded
        dataset_kwargs: Option<Value>,
        /// The split for training
        training_split: Option<String>,
        /// The split that is asked where there is no `test_split`
        validation_split: Option<String>,
        /// The split that is asked
        test_split: Option<String>,
        /// The split that examples are taken from
        fewshot_split: Option<String>,
        /// What is asked of the model
        output_type: Option<OutputType>,
        /// The question: a template over the document's columns, or the name of one
        doc_to_text: Option<String>,
        /// The answer: a template, the name of a column, the number of an option, or a list of texts
        doc_to_target: Option<TargetField>,
        /// The options: a template of a list, the name of a column, or a list of texts
        doc_to_choice: Option<ChoiceField>,
        /// A template that begins each prompt
        description: Option<String>,
        /// A template that begins each answer
        gen_prefix: Option<String>,
        /// The text between question and answer
        target_delimiter: Option<String>,
        /// The text behind each example
        fewshot_delimiter: Option<String>,
        /// Number of examples
        #[range(0..=1000)]
        num_fewshot: Option<u64>,
        /// Which examples, and how they are written
        fewshot_config: Option<FewshotConfig>,
        /// How responses are generated
        generation_kwargs: Option<GenerationKwargs>,
        /// Responses to each question
        #[range(1..=1_000_000)]
        repeats: Option<u64>,
        /// How answers are found in responses
        filter_list: Option<Vec<Pipeline>>,
        /// How answers are compared
        metric_list: Option<Vec<MetricEntry>>,
        /// Whether training data is searched for the documents
        should_decontaminate: Option<Value>,
        /// What it is searched for
        doc_to_decontamination_query: Option<Value>,
        /// Remarks for people
        metadata: Option<Value>,
    }
}

impl FileContent for TaskFile {
    const REFUSED: &'static [(&'static str, &'static str)] = &[
        ("process_docs", "it is Python: change the documents before, for example by a `run` stage"),
        (
            "process_results",
            "it is Python: judge the responses by `run`, or by a task of `evaluate`",
        ),
        ("custom_dataset", "it is Python: `data` gives the documents"),
        ("use_prompt", "write the prompt as `doc_to_text`"),
        ("doc_to_image", "models here read text alone"),
        ("doc_to_audio", "models here read text alone"),
        ("unsafe_code", "programs are run by `task: code`, in a sandbox"),
        ("class", "it is Python"),
        ("group", "a group names tasks: write a stage for each of them"),
        ("group_alias", "a group names tasks: write a stage for each of them"),
        ("task_list", "a list names tasks: write a stage for each of them"),
        ("aggregate_metric_list", "a group names tasks: write a stage for each of them"),
    ];
}

choices! {
    /// What is asked of the model.
    pub(crate) enum OutputType {
        GenerateUntil = "generate_until",
        MultipleChoice = "multiple_choice",
        Loglikelihood = "loglikelihood",
    }
}

one_of! {
    /// The answer of a document.
    pub(crate) enum TargetField {
        #[range(0..=1_000_000)]
        Option(u64),
        Text(String),
        Texts(Vec<String>),
    }
}

one_of! {
    /// The options of a document.
    pub(crate) enum ChoiceField {
        Text(String),
        Texts(Vec<String>),
    }
}

parameters! {
    /// How examples are chosen and written; what is not given is as for the question.
    pub(crate) struct FewshotConfig {
        /// How they are chosen
        sampler: Sampler = "default",
        /// The split that they are taken from
        split: Option<String>,
        /// The examples themselves
        samples: Option<Vec<Value>>,
        /// The question
        doc_to_text: Option<String>,
        /// The answer
        doc_to_target: Option<TargetField>,
        /// The options
        doc_to_choice: Option<ChoiceField>,
        /// A template that begins each answer
        gen_prefix: Option<String>,
        /// The text between question and answer
        target_delimiter: Option<String>,
        /// The text behind each example
        fewshot_delimiter: Option<String>,
    }
}

choices! {
    /// How examples are chosen.
    pub(crate) enum Sampler {
        /// Anew for each document.
        Default = "default",
        /// The first ones.
        FirstN = "first_n",
    }
}

parameters! {
    /// How responses are generated.
    #[allow(dead_code, reason = "they become parameters of `generate`")]
    pub(crate) struct GenerationKwargs {
        /// Texts that end a response
        until: Option<Until>,
        /// Limit of the tokens
        #[range(1..=1_000_000)]
        #[alias("max_new_tokens", "max_tokens", "max_completion_tokens", "max_length")]
        max_gen_toks: Option<u64>,
        /// Whether tokens are drawn
        do_sample: Option<bool>,
        /// Sampling temperature
        #[range(0.0..)]
        temperature: Option<f64>,
        /// As `generate` has it
        #[range(0.0..=1.0)]
        top_p: Option<f64>,
        /// As `generate` has it
        #[range(1..=1_000_000)]
        top_k: Option<u64>,
    }
}

one_of! {
    /// Texts that end a response.
    pub(crate) enum Until {
        Text(String),
        Texts(Vec<String>),
    }
}

parameters! {
    /// A way to find answers.
    pub(crate) struct Pipeline {
        /// Its name, which ends those of its metrics
        name: String,
        /// Its steps
        filter: Vec<Step>,
    }
}

parameters! {
    /// A step of a way to find answers.
    pub(crate) struct Step {
        /// What it does
        function: Function,
        /// A pattern, of whose matches one is taken
        regex_pattern: Option<String>,
        /// The number of the match, from the end where it is negative
        #[range(-1_000_000..=1_000_000)]
        group_select: Option<i64>,
        /// The answer where nothing matches
        fallback: Option<String>,
    }
}

choices! {
    /// What a step does.
    pub(crate) enum Function {
        Regex = "regex",
        RemoveWhitespace = "remove_whitespace",
        Lowercase = "lowercase",
        Uppercase = "uppercase",
        TakeFirst = "take_first",
    }
}

parameters! {
    /// A metric.
    #[allow(dead_code, reason = "whether more is better is for people")]
    pub(crate) struct MetricEntry {
        /// Its name
        metric: MetricName,
        /// How it is summed up
        aggregation: Option<Aggregation>,
        /// For people
        higher_is_better: Option<bool>,
        /// Case does not count
        ignore_case: bool = false,
        /// Punctuation does not count
        ignore_punctuation: bool = false,
        /// Digits do not count
        ignore_numbers: bool = false,
        /// What these patterns match does not count
        regexes_to_ignore: Vec<String> = [],
    }
}

choices! {
    /// The name of a metric.
    pub(crate) enum MetricName {
        ExactMatch = "exact_match",
        Acc = "acc",
        AccNorm = "acc_norm",
        AccBytes = "acc_bytes",
        Perplexity = "perplexity",
    }
}

choices! {
    /// How a metric is summed up.
    pub(crate) enum Aggregation {
        Mean = "mean",
        Perplexity = "perplexity",
    }
}

/// The text between question and answer where the task gives none.
pub(crate) const TARGET_DELIMITER: &str = " ";

/// The text behind each example where the task gives none.
pub(crate) const FEWSHOT_DELIMITER: &str = "\n\n";

/// The keys of which the prompts are made.
const OF_PROMPTS: [&str; 15] = [
    "output_type",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "description",
    "gen_prefix",
    "target_delimiter",
    "fewshot_delimiter",
    "repeats",
    "num_fewshot",
    "fewshot_config",
    "fewshot_split",
    "training_split",
    "validation_split",
    "test_split",
];

/// Those that say nothing where there are no examples.
const OF_EXAMPLES: [&str; 7] = [
    "num_fewshot",
    "fewshot_config",
    "fewshot_delimiter",
    "fewshot_split",
    "training_split",
    "validation_split",
    "test_split",
];

/// The keys by which responses are judged.
const OF_VERDICTS: [&str; 3] = ["output_type", "filter_list", "metric_list"];

/// Returns the content of the task file that a stage names, if it names one.
pub(crate) fn content(params: &Map<String, Value>) -> Option<&Map<String, Value>> {
    params.get("task")?.get("lm_eval")?.as_object()
}

fn content_mut(params: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    params.get_mut("task")?.get_mut("lm_eval")?.as_object_mut()
}

/// Returns what the task asks of a model; of values as they are written too.
pub(crate) fn output_type(params: &Map<String, Value>) -> Option<OutputType> {
    let word = content(params)?.get("output_type");
    Some(match word.and_then(Value::as_str) {
        Some("multiple_choice") => OutputType::MultipleChoice,
        Some("loglikelihood") => OutputType::Loglikelihood,
        _ => OutputType::GenerateUntil,
    })
}

/// Reads what a stage kept of its task.
pub(crate) fn task_file(params: &Map<String, Value>) -> Result<TaskFile, StageError> {
    let content = content(params).cloned().unwrap_or_default();
    serde_json::from_value(content.into())
        .map_err(|error| StageError::bug(format!("a task file lost its types: {error}")))
}

/// Keeps of the task what decides the prompts, with the number of examples that the stage gives.
pub(crate) fn keep_prompts(params: &mut Map<String, Value>) {
    let given = params.shift_remove("num_fewshot");
    let Some(task) = content_mut(params) else { return };
    task.retain(|name, _| OF_PROMPTS.contains(&name.as_str()));
    if let Some(given) = given {
        task.insert("num_fewshot".into(), given);
    }
    for (name, default) in [
        ("output_type", OutputType::GenerateUntil.word()),
        ("description", ""),
        ("target_delimiter", TARGET_DELIMITER),
        ("fewshot_delimiter", FEWSHOT_DELIMITER),
    ] {
        canonical::remove_default(task, name, &default.into());
    }
    if task.get("num_fewshot").and_then(Value::as_u64).unwrap_or(0) == 0 {
        task.retain(|name, _| !OF_EXAMPLES.contains(&name.as_str()));
    }
    let draws = task.contains_key("num_fewshot")
        && task.get("fewshot_config").is_none_or(|config| config["sampler"] != "first_n");
    if !draws {
        params.shift_remove("fewshot_seed");
    }
}

/// Keeps of the task what decides the verdicts.
pub(crate) fn keep_verdicts(params: &mut Map<String, Value>) {
    if let Some(task) = content_mut(params) {
        task.retain(|name, _| OF_VERDICTS.contains(&name.as_str()));
    }
}

/// The parameters of `generate` or `score` for a stage that names a task file; what the stage says
/// itself is left as it is.
pub(crate) fn answering(stage: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let mut params = match output_type(stage) {
        Some(OutputType::GenerateUntil) => generating(stage),
        _ => vec![("of", "continuation".into())],
    };
    params.push(("chat", false.into()));
    params.retain(|(name, _)| !stage.contains_key(*name));
    params
}

fn generating(stage: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let task = content(stage);
    let kwargs = task.and_then(|task| task.get("generation_kwargs"));
    let given = |name: &str| kwargs.and_then(|kwargs| kwargs.get(name)).filter(|v| !v.is_null());
    let delimiter = task.and_then(|task| task.get("fewshot_delimiter"));
    let until = given("until").or(delimiter).cloned().unwrap_or_else(|| FEWSHOT_DELIMITER.into());
    let until = if until.is_array() { until } else { Value::Array(vec![until]) };
    // Without drawing the likeliest token is taken, whatever the temperature.
    let draws = given("do_sample").is_none_or(|draws| draws == &Value::Bool(true));
    let temperature = given("temperature").filter(|_| draws).cloned().unwrap_or_else(|| 0.0.into());
    let mut params = vec![
        ("stop", until),
        ("max_new_tokens", given("max_gen_toks").cloned().unwrap_or_else(|| 256.into())),
        ("temperature", temperature),
    ];
    for name in ["top_p", "top_k"] {
        params.extend(given(name).filter(|_| draws).map(|value| (name, value.clone())));
    }
    params
}
