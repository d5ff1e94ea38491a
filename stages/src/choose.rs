//! The kind `choose`: of several models or tables, made at the values of an axis, passes on the one
//! whose metric is best, among those whose other metrics are within bounds.

use arrow::array::{Array, Float64Array, Int64Array, StringArray};
use serde_json::{Map, Value};

use refrain_cache::columns::column;
use refrain_cache::{ArtifactKind, TableReader};
use refrain_engine::kind::{
    Bounds, Check, Columns, Context, Kind, MAIN, MetricContext, MetricDecl, MetricName, Model,
    NodeResult, OutputDecl, Parameters, Problem, StageError, Table, parameters,
};

use crate::components;
use crate::tables::{self, metric};

/// The metrics of `choose`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("chosen", "Place of the chosen value on the axis, from 1"),
    MetricDecl::given("eligible", "Number of values of the axis that meet `require`", |context| {
        context.params.contains_key("require").then(|| "eligible".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("METRIC", "The metric that decided, of the chosen one", |context| {
        deciding(context).into_iter().collect()
    }),
];

fn deciding(context: MetricContext<'_>) -> Option<String> {
    let given = |name: &str| context.params.get(name)?.as_str().map(str::to_owned);
    given("highest").or_else(|| given("lowest"))
}

/// The kind `choose`.
pub const CHOOSE: Kind = Kind {
    name: "choose",
    about: "Passes on the model or table, of those at the values of an axis, whose metric is best",
    components: &[components::CHOOSE],
    versions: None,
    params: ChooseParams::PARAMS,
    adds: &[],
    outputs,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: None,
    close_elsewhere: false,
    retryable: false,
    tokens: None,
    over: Some("over"),
    served: &[],
    requests: None,
    memory: None,
    run,
};

parameters! {
    /// The parameters of `choose`.
    struct ChooseParams {
        /// The models to choose from: what this stands for at each value of the axis
        model: Option<&Model>,
        /// The tables to choose from, in place of `model`
        data: Option<&Table>,
        /// The axis whose values are chosen among; the result does not depend on it
        #[knob]
        over: String,
        /// The metric whose highest value wins; of equal values the first
        highest: Option<MetricName>,
        /// The metric whose lowest value wins, in place of `highest`
        lowest: Option<MetricName>,
        /// Bounds of metrics: only values of the axis at which all of them hold may win
        require: Option<Vec<Demand>>,
    }
}

const ANY: Bounds<f64> = Bounds { min: f64::NEG_INFINITY, max: f64::INFINITY, open: false };

parameters! {
    /// An item of `require`.
    struct Demand {
        /// The metric
        metric: MetricName,
        /// The least value
        #[range(ANY)]
        min: Option<f64>,
        /// The largest value
        #[range(ANY)]
        max: Option<f64>,
    }
}

/// The parameters that name what is chosen from.
const CHOSEN: [(&str, ArtifactKind); 2] =
    [("model", ArtifactKind::Model), ("data", ArtifactKind::Table)];

fn outputs(params: &Map<String, Value>) -> Vec<OutputDecl> {
    // A parameter may stand for itself, or for its values on the axis: `model[0]`.
    let is_given = |name: &str| {
        params
            .keys()
            .any(|key| key == name || key.strip_prefix(name).is_some_and(|k| k.starts_with('[')))
    };
    let kind = if is_given("model") { ArtifactKind::Model } else { ArtifactKind::Table };
    vec![
        OutputDecl { name: MAIN.into(), kind },
        OutputDecl { name: "metrics".into(), kind: ArtifactKind::Table },
    ]
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let first = |name: &str| format!("{name}[0]");
    let is_input = |name: &str| check.inputs.contains(&first(name));
    let mut one = |names: [&str; 2], given: [bool; 2], lack: &str| match given {
        [true, true] => {
            let message = format!("`{}` cannot stand beside `{}`", names[1], names[0]);
            problems.push(Problem::at(names[1], message).hint("give one of the two"));
        }
        [false, false] => {
            let hint = format!("give `{}` or `{}`", names[0], names[1]);
            problems.push(Problem::at("", lack).hint(hint));
        }
        _ => {}
    };
    let names = CHOSEN.map(|(name, _)| name);
    one(names, names.map(is_input), "it does not say what is chosen from");
    let ways = ["highest", "lowest"];
    one(ways, ways.map(|name| check.params.contains_key(name)), "it does not say by which metric");
    check_demands(check, problems);
    (check.columns)(&first("data"))
}

fn check_demands(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let Some(demands) = check.params.get("require").and_then(Value::as_array) else { return };
    if demands.is_empty() {
        problems.push(Problem::at("require", "`require` names no metric").hint("leave it out"));
    }
    for (i, demand) in demands.iter().enumerate() {
        let bound = |name: &str| demand.get(name).and_then(Value::as_f64);
        let message = match (bound("min"), bound("max")) {
            (None, None) => "it has no bound",
            (Some(min), Some(max)) if min > max => "`min` is above `max`",
            _ => continue,
        };
        let problem = Problem::at(format!("require[{i}]"), message);
        problems.push(problem.hint("for example `{ metric: STAGE.METRIC, min: 0.5 }`"));
    }
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: ChooseParams = ctx.parameters()?;
    let (way, MetricName(name), sign) = match (params.highest, params.lowest) {
        (Some(name), _) => ("highest", name, 1.0),
        (None, Some(name)) => ("lowest", name, -1.0),
        (None, None) => return Err(StageError::bug("it is not said by which metric to choose")),
    };
    let figures = figures(ctx, way, &name)?;
    let demands = params.require.unwrap_or_default();
    let eligible = eligible(ctx, &params.over, &demands, figures.len())?;

    let mut best: Option<usize> = None;
    let defined = figures.iter().enumerate().filter(|(_, figure)| figure.value.is_finite());
    for (place, figure) in defined.filter(|(place, _)| eligible[*place]) {
        if best.is_none_or(|best| sign * figure.value > sign * figures[best].value) {
            best = Some(place);
        }
    }
    let Some(best) = best else {
        return Err(StageError::with_hint(
            match demands.is_empty() {
                true => format!("`{name}` has no value at any value of `{}`", params.over),
                false => format!(
                    "`{name}` has no value at any value of `{}` that meets `require`",
                    params.over
                ),
            },
            "look at the tables of metrics: a figure over no rows is not defined",
        ));
    };

    let chosen = CHOSEN.iter().find_map(|(input, _)| ctx.inputs.get(&format!("{input}[{best}]")));
    let chosen = chosen.ok_or_else(|| StageError::bug("nothing to choose from was given"))?;
    let all = figures.len() as u64;
    let mut metrics = vec![metric("chosen", (best + 1) as f64, all)];
    if !demands.is_empty() {
        let count = eligible.iter().filter(|is_eligible| **is_eligible).count();
        metrics.push(metric("eligible", count as f64, all));
    }
    metrics.push(metric(&name, figures[best].value, figures[best].n));
    Ok(NodeResult { metrics, ..NodeResult::main(chosen.artifact().clone()) })
}

/// Whether all demands hold, at each value of the axis.
fn eligible(
    ctx: &Context<'_>,
    over: &str,
    demands: &[Demand],
    values: usize,
) -> Result<Vec<bool>, StageError> {
    let mut eligible = vec![true; values];
    for (i, Demand { metric: MetricName(name), min, max }) in demands.iter().enumerate() {
        let found = figures(ctx, &format!("require[{i}].metric"), name)?;
        let holds = |value: f64| {
            value.is_finite()
                && min.is_none_or(|min| value >= min)
                && max.is_none_or(|max| value <= max)
        };
        if !found.iter().any(|figure| holds(figure.value)) {
            let all: Vec<String> = found.iter().map(|figure| figure.value.to_string()).collect();
            return Err(StageError::with_hint(
                format!(
                    "at no value of `{over}` is `{name}` {}: it is {}",
                    bound_words(*min, *max),
                    all.join(", ")
                ),
                "weaken the bound of `require`, or give the axis other values",
            ));
        }
        for (is_eligible, figure) in eligible.iter_mut().zip(&found) {
            *is_eligible &= holds(figure.value);
        }
    }
    if demands.is_empty() || eligible.contains(&true) {
        return Ok(eligible);
    }
    Err(StageError::with_hint(
        format!("no value of `{over}` meets all of `require`"),
        "weaken a bound, or give the axis other values",
    ))
}

fn bound_words(min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) => format!("from {min} to {max}"),
        (Some(min), None) => format!("at least {min}"),
        (None, Some(max)) => format!("at most {max}"),
        (None, None) => "defined".into(),
    }
}

/// A metric of one of the stages.
struct Figure {
    value: f64,
    n: u64,
}

/// Reads a metric at each value of the axis.
fn figures(ctx: &Context<'_>, path: &str, name: &str) -> Result<Vec<Figure>, StageError> {
    (0..)
        .map(|place| format!("{path}[{place}]"))
        .take_while(|input| ctx.inputs.contains_key(input))
        .map(|input| figure(ctx, &input, name))
        .collect()
}

/// Reads a metric; one that is not defined is not a number.
fn figure(ctx: &Context<'_>, input: &str, name: &str) -> Result<Figure, StageError> {
    let reader = TableReader::open(ctx.table(input)?)?;
    for batch in reader.batches(Some(&["metric", "value", "n"]), tables::BATCH_ROWS)? {
        let batch = batch?;
        let names = column::<StringArray>(&batch, "metric")?;
        let values = column::<Float64Array>(&batch, "value")?;
        let counts = column::<Int64Array>(&batch, "n")?;
        if let Some(row) = names.iter().position(|known| known == Some(name)) {
            let value = if values.is_valid(row) { values.value(row) } else { f64::NAN };
            return Ok(Figure { value, n: counts.value(row).max(0) as u64 });
        }
    }
    Err(StageError::failed(format!("`{input}` has no metric `{name}`")))
}
