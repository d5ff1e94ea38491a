//! `refrain run`: computes what is missing, writes the lock, prints the results.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::info;

use refrain_engine::graph::{Graph, NodeId};
use refrain_engine::kind::Cancel;
use refrain_engine::kind::machine::Machine;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::{self, Compared, ComparisonEntry, Lock, LockError};
use refrain_engine::ledger::up_to_date::{self, CachedReport};
use refrain_engine::ledger::{reasons, run_log};
use refrain_engine::plan::state::NodeState;
use refrain_engine::plan::{self, Cost};
use refrain_engine::report::comparison::{self, ComparedRow, Comparisons, NoResult};
use refrain_engine::report::expect::{self, ExpectResult, Verdict};
use refrain_engine::report::outcome;
use refrain_engine::report::results::NodeStatus;
use refrain_engine::report::verify::{self, Mismatch};
use refrain_engine::run::budget::{Budget, Limit, OverBudget};
use refrain_engine::run::executor::Placement;
use refrain_engine::run::{self, Outcome, Report, RunOptions};
use refrain_engine::store::Store;

use crate::cli::{self, Format};
use crate::command_error::{self, CommandError};
use crate::config::Config;
use crate::events::Observers;
use crate::executors::placements;
use crate::fetches::Fetches;
use crate::hub::Finder;
use crate::human::time;
use crate::session::{Opened, Session, Sources, absolute};
use crate::up_to_date::UpToDateInput;
use crate::{interrupt, machine, output, remote};

use super::results;
use super::verify::{hints, mismatch_json, mismatch_words};

/// Runs the workflow.
pub fn run(
    arguments: &cli::RunArgs,
    config: Option<&Path>,
    format: Format,
    observers: &Observers,
) -> Result<ExitCode, CommandError> {
    if arguments.dry_run {
        let (workflow, jobs) = (arguments.workflow.clone(), arguments.jobs);
        return super::plan::plan(
            &cli::PlanArgs { workflow, summary: false, jobs },
            config,
            format,
        );
    }
    let begin = Instant::now();
    let opened = Opened::new(&arguments.workflow)?;
    let seen = LoggedRun::new(arguments, &opened)?;
    // A kept plan is of a run of the whole workflow, whose report is for people.
    let part = !arguments.only.is_empty() || !arguments.force.is_empty();
    let part = part || !arguments.update.is_empty();
    let kept = match part || format == Format::Json {
        true => None,
        false => UpToDateInput::new(&arguments.workflow, &opened),
    };
    if let Some(cached_report) = kept.as_ref().and_then(UpToDateInput::find) {
        results::print(&cached_report.results, &cached_report.comparisons, format);
        run_log::used(&seen.runs, &seen.run());
        return Ok(unchanged(&cached_report, begin));
    }
    let config = Config::read(config)?;
    let finder = Finder::with_network(&opened.lock, &arguments.update, arguments.locked);
    let session = Session::with(opened.clone(), &arguments.workflow, Sources::Present, &finder)?;
    command_error::warn(&session.unread(), format);
    let lock = read_lock(&session, arguments.locked)?;
    let cancel = Cancel::default();
    interrupt::cancels(&cancel)?;
    let fetches = Fetches {
        opened: &opened,
        arguments: &arguments.workflow,
        machine: &config.machine,
        moved: &arguments.update,
        only: &arguments.only,
        is_locked: arguments.locked,
        cancel: &cancel,
    };
    let (session, _) = fetches.complete(session, finder)?;
    let store = session.store_for_run()?;
    let executors = placements(arguments.executor.as_deref(), &config)?;
    let mut options = options(arguments, &session, &config.machine, &lock, &executors)?;
    if let Some(limit) = &arguments.budget {
        options.budget = Some(budget(limit, arguments, &session, &store, &lock, &config.machine)?);
    }
    let wanted = options.only.as_ref().map(|only| session.graph.upstream(only));
    if arguments.locked {
        let (graph, digests) = (&session.graph, store.digests());
        let partial = session.overridden;
        let changes = verify::foresee(
            graph,
            &lock,
            digests,
            &store,
            &session.comparisons,
            wanted.as_deref(),
            partial,
        );
        if !changes.is_empty() {
            return Ok(refused(&session, &changes, format));
        }
    }

    if let Some(address) = &arguments.remote {
        let (wanted, force) = (wanted.as_deref(), &options.force);
        let is_trusted = config.machine.trusts(address);
        remote::pull_for_run(&session, &lock, &store, address, wanted, force, is_trusted)?;
    }

    observers.run_log.begin(&seen.runs, &seen.run());
    let report = run::run(&session.graph, &store, &options, &cancel);
    refrain_stages::end_servers();
    let report = report?;
    let whole = options.only.is_none() && !session.overridden;
    let compared = compute(&session, &store, &report);
    // A line of the lock is of all points of the sweep.
    let lines = compared.iter().flatten().filter(|_| !session.overridden);
    let entries: Vec<ComparisonEntry> = lines.cloned().collect();
    let mut changes = Vec::new();
    if arguments.locked {
        let mut updated = lock.clone();
        if updated.update(&session.graph, &report, &entries, whole) {
            changes = verify::changes(&session.graph, &lock, &updated, &store);
        }
    } else if !session.overridden {
        lock::record(&session.lock, &session.graph, &report, &entries, whole)?;
        info!(name: "lock_written", path = %session.lock.display(), "lock written");
    }
    let reasons = reasons::reasons(&session.graph, &store, &lock.keys(), &options.force, &report)?;
    observers.run_log.reasons(reasons);
    observers.run_log.end(report.is_complete());
    let (verdicts, comparisons) = judge(&session, &report, &compared, options.only.is_some());
    let is_wrong = comparisons.iter().any(|row| row.is_wrong);
    let class = outcome::class(&report, &verdicts, is_wrong, !changes.is_empty());
    let code = class.map_or(0, ErrorClass::exit_code);
    if format == Format::Json {
        output::json(&to_json(&session, &report, &verdicts, &comparisons, &changes, code));
    } else {
        let table = results::collect(&session, &session.columns, |id| {
            status(&report, wanted.as_deref(), id)
        });
        results::print(&table, &comparisons, format);
        if let Some(kept) = kept.filter(|_| code == 0 && report.is_complete()) {
            let cached = session.graph.nodes.len();
            let cached_report = CachedReport {
                cached,
                results: table,
                comparisons,
                expects: verdicts.iter().map(verdict_line).collect(),
            };
            kept.keep(&session.graph, &store, &report.state, cached_report);
        }
        summary(&report, &verdicts, begin, &changes);
    }
    if let (Some(over), Some(limit), Format::Human) =
        (&report.over_budget, &arguments.budget, format)
    {
        let (message, hint) = over_budget_words(&session.graph, over, limit);
        output::remark(&format!("error: {message}\n  = help: {hint}"));
    }
    Ok(ExitCode::from(code))
}

/// Computes the comparisons of which the nodes are done.
fn compute(
    session: &Session,
    store: &Store,
    report: &Report<'_>,
) -> Vec<Result<ComparisonEntry, NoResult>> {
    let Comparisons { pairings, asked, .. } = &session.comparisons;
    comparison::compute(&session.graph, pairings, asked, store, |id| report.state.done(id))
}

/// Checks all conditions, in the order of the file, and makes the table of comparisons. A run of a
/// part, or one that did not end, is not told of what it did not come to.
fn judge(
    session: &Session,
    report: &Report<'_>,
    compared: &[Result<ComparisonEntry, NoResult>],
    is_part: bool,
) -> (Vec<ExpectResult>, Vec<ComparedRow>) {
    let found: Vec<Result<&Compared, &NoResult>> =
        compared.iter().map(|one| one.as_ref().map(|entry| &entry.result)).collect();
    let mut verdicts = expect::check(&session.expects, &session.graph, |id| report.state.done(id));
    verdicts.extend(session.comparisons.check(&found));
    verdicts.retain(|v| report.is_complete() && !is_part || v.obtained.is_some());
    verdicts.sort_by_key(|verdict| verdict.place);
    let rows = session.comparisons.rows(&found, &verdicts);
    (verdicts, rows)
}

/// Reads the lock before anything runs: one that cannot be updated at the end is refused now. A run with `--set` does not
/// touch it.
fn read_lock(session: &Session, locked: bool) -> Result<Lock, CommandError> {
    if session.overridden && !locked {
        return Ok(Lock::read(&session.lock).unwrap_or_default());
    }
    match Lock::read(&session.lock) {
        Err(LockError::Missing(_)) if !locked => Ok(Lock::default()),
        other => Ok(other?),
    }
}

fn options<'a>(
    arguments: &cli::RunArgs,
    session: &Session,
    configured: &'a Machine,
    lock: &Lock,
    executors: &'a [Placement],
) -> Result<RunOptions<'a>, CommandError> {
    let threads = machine::threads();
    let only = session.all_nodes(&arguments.only)?;
    let force = session.all_nodes(&arguments.force)?.unwrap_or_default().into_iter().collect();
    Ok(RunOptions {
        jobs: arguments.jobs.map_or(threads, |n| n as usize),
        threads,
        memory: arguments.memory.unwrap_or_else(machine::free_memory),
        gpus: machine::gpus(),
        keep_going: arguments.keep_going,
        only,
        force,
        budget: None,
        environment: &|name| std::env::var(name).ok(),
        own_program: machine::own_program(),
        machine: configured,
        pins: lock.pins(),
        executors,
    })
}

/// The budget: the limit, and what earlier runs say that the nodes would cost.
fn budget(
    limit: &Limit,
    arguments: &cli::RunArgs,
    session: &Session,
    store: &Store,
    lock: &Lock,
    configured: &Machine,
) -> Result<Budget, CommandError> {
    let prices = configured.prices.clone();
    if let (Limit::Money(limit), Some(currency)) = (limit, prices.currency())
        && limit.currency != currency
    {
        return Err(CommandError::with_hint(
            ErrorClass::Input,
            format!("the budget is in {}, the prices are in {currency}", limit.currency),
            format!("give it in {currency}"),
        ));
    }
    let plan = plan::plan(&session.graph, store, &lock.keys())?;
    let estimates = plan::estimate(&session.graph, &plan, lock, store)?;
    let costs = session
        .graph
        .ids()
        .zip(estimates)
        .map(|(id, estimate)| Cost::estimated(session.graph.node(id), estimate, &prices));
    Ok(Budget {
        limit: limit.clone(),
        unknown_runs: arguments.budget_unknown == cli::BudgetUnknown::Allow,
        costs: costs.collect(),
        prices,
    })
}

/// Says before which node the budget ended the run, and what to do.
fn over_budget_words(graph: &Graph, over: &OverBudget, limit: &Limit) -> (String, String) {
    let name = &graph.node(over.node).name;
    let amount = |amount: f64| match limit {
        Limit::Time(_) => time(Duration::try_from_secs_f64(amount).unwrap_or_default()),
        Limit::Money(money) => format!("{amount:.2} {}", money.currency),
    };
    let left = amount(over.left);
    match over.cost {
        Some(cost) => {
            let cost = amount(cost);
            (
                format!("`{name}` would cost about {cost}, and {left} of the budget are left"),
                "a larger `--budget` runs it; `refrain plan` shows what is left to do".into(),
            )
        }
        None => {
            let what = match limit {
                Limit::Time(_) => "no earlier run tells how long it takes",
                Limit::Money(_) => {
                    "no earlier run, or no price in the configuration, tells its cost"
                }
            };
            (
                format!("`{name}` may pass the budget: {what}"),
                "`--budget-unknown=allow` runs it anyway".into(),
            )
        }
    }
}

/// The status of a node in the table of results.
fn status<'r>(report: &'r Report<'_>, wanted: Option<&[bool]>, id: NodeId) -> NodeStatus<'r> {
    if wanted.is_some_and(|wanted| !wanted[id.index()]) {
        return NodeStatus::Unwanted;
    }
    match (&report.outcomes[id.index()], report.state.done(id)) {
        (_, Some(done)) => NodeStatus::NodeState(done),
        (Outcome::Failed(_), None) => NodeStatus::Failed,
        (_, None) => NodeStatus::Missing,
    }
}

/// Reports that a run with `--locked` would change the lock; nothing has run.
fn refused(session: &Session, changes: &[Mismatch], format: Format) -> ExitCode {
    if format == Format::Json {
        let graph = &session.graph;
        let nodes = graph.ids().map(|id| node_json(graph, id, &Outcome::NotRun, None)).collect();
        let changes = changes.iter().map(mismatch_json).collect();
        let run = RunJson { nodes, changes, ..RunJson::default() };
        output::json(&run.document(ErrorClass::Difference.exit_code()));
    } else {
        changed(changes);
    }
    ExitCode::from(ErrorClass::Difference.exit_code())
}

/// Says how the lock differs, and that it is left alone.
fn changed(changes: &[Mismatch]) {
    for change in changes {
        output::remark(&mismatch_words(change));
    }
    let hints = hints(changes);
    output::remark(&format!(
        "error: the lock is out of date, and `--locked` forbids updating it: {hints}"
    ));
}

fn summary(report: &Report<'_>, verdicts: &[ExpectResult], begin: Instant, changes: &[Mismatch]) {
    for verdict in verdicts {
        output::remark(&verdict_line(verdict));
    }
    let count = |wanted: fn(&Outcome) -> bool| report.outcomes.iter().filter(|o| wanted(o)).count();
    let (ran, cached) = (report.ran().count(), count(|o| matches!(o, Outcome::Cached)));
    let (failed, skipped) = (report.failed().count(), count(|o| matches!(o, Outcome::Skipped(_))));
    let mut words = format!("{} run, {cached} cached", output::count(ran, "node"));
    if failed > 0 {
        words.push_str(&format!(", {failed} failed, {skipped} not reached"));
    }
    if report.computed_twice > 0 {
        words.push_str(&format!(", {} by another process too", report.computed_twice));
    }
    let end = if report.interrupted { ", interrupted" } else { "" };
    output::remark(&format!("{words}{end}, {}", time(begin.elapsed())));
    if !changes.is_empty() {
        changed(changes);
    }
}

/// Formats the outcome of a condition; one that does not hold is an error.
fn verdict_line(result: &ExpectResult) -> String {
    let obtained = match (result.obtained, &result.reason) {
        (Some(obtained), _) => format!("{obtained:.6}"),
        (None, Some(reason)) => format!("no value: {reason}"),
        (None, None) => "no value".into(),
    };
    let detail = result.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let text = &result.text;
    match result.verdict() {
        Verdict::Holds => format!("expect {text}: obtained {obtained}{detail}, holds"),
        Verdict::NotShown => format!("expect {text}: obtained {obtained}{detail}, not shown"),
        Verdict::Fails => format!("error: expected {text}, got {obtained}{detail}"),
        Verdict::HoldsAfterAll => format!(
            "error: {text} holds after all: obtained {obtained}{detail}\n  = help: remove \
             `shown: false` from this `expect`"
        ),
    }
}

/// Reports a run that found everything up to date.
fn unchanged(cached_report: &CachedReport, begin: Instant) -> ExitCode {
    for line in &cached_report.expects {
        output::remark(line);
    }
    output::remark(&format!(
        "0 nodes run, {} cached, {}",
        cached_report.cached,
        time(begin.elapsed())
    ));
    ExitCode::SUCCESS
}

/// The run as its log names it.
struct LoggedRun {
    /// The folder of the logs.
    runs: PathBuf,
    workflow: PathBuf,
    lock: PathBuf,
    set: Vec<String>,
    plan: String,
}

impl LoggedRun {
    fn new(arguments: &cli::RunArgs, opened: &Opened) -> Result<LoggedRun, CommandError> {
        let workflow = absolute(&opened.source.path)?;
        let set = arguments.workflow.set.clone();
        let plan = up_to_date::name(&workflow, &set);
        Ok(LoggedRun {
            runs: opened.cache.join("runs"),
            lock: absolute(&opened.lock)?,
            workflow,
            set,
            plan,
        })
    }

    fn run(&self) -> run_log::RunInfo<'_> {
        run_log::RunInfo {
            workflow: &self.workflow,
            lock: &self.lock,
            set: &self.set,
            plan: &self.plan,
        }
    }
}

fn to_json(
    session: &Session,
    report: &Report<'_>,
    verdicts: &[ExpectResult],
    comparisons: &[ComparedRow],
    changes: &[Mismatch],
    code: u8,
) -> Value {
    let graph = &session.graph;
    let node =
        |id: NodeId| node_json(graph, id, &report.outcomes[id.index()], report.state.done(id));
    let expect = |v: &ExpectResult| {
        json!({
            "condition": v.text,
            "obtained": v.obtained,
            "reason": v.reason,
            "detail": v.detail,
            "holds": v.holds,
            "verdict": v.verdict(),
            "source": v.source,
        })
    };
    let run = RunJson {
        interrupted: report.interrupted,
        computed_twice: report.computed_twice,
        over_budget: report.over_budget.as_ref().map(|over| {
            json!({ "node": graph.node(over.node).name, "cost": over.cost, "left": over.left })
        }),
        nodes: graph.ids().map(node).collect(),
        expects: verdicts.iter().map(expect).collect(),
        comparisons: super::compare::table::to_json(comparisons),
        changes: changes.iter().map(mismatch_json).collect(),
    };
    run.document(code)
}

/// The parts of a run's JSON document.
#[derive(Default)]
struct RunJson {
    interrupted: bool,
    computed_twice: usize,
    over_budget: Option<Value>,
    nodes: Vec<Value>,
    expects: Vec<Value>,
    comparisons: Vec<Value>,
    changes: Vec<Value>,
}

impl RunJson {
    fn document(self, code: u8) -> Value {
        json!({
            "refrain": 1,
            "exit_code": code,
            "interrupted": self.interrupted,
            "computed_twice": self.computed_twice,
            "over_budget": self.over_budget,
            "nodes": self.nodes,
            "expects": self.expects,
            "comparisons": self.comparisons,
            "lock_changes": self.changes,
        })
    }
}

fn node_json(graph: &Graph, id: NodeId, outcome: &Outcome, done: Option<&NodeState>) -> Value {
    let (word, seconds, error) = match outcome {
        Outcome::NotRun => ("not_run", None, None),
        Outcome::Cached => ("cached", None, None),
        Outcome::Ran(elapsed) => ("ran", Some(elapsed.as_secs_f64()), None),
        Outcome::Failed(failure) => ("failed", None, Some(failure.to_string())),
        Outcome::Skipped(_) => ("skipped", None, None),
    };
    json!({
        "node": graph.node(id).name,
        "kind": graph.node(id).kind_name(),
        "outcome": word,
        "seconds": seconds,
        "error": error,
        "key": done.map(|d| d.key.to_string()),
        "outputs": done.map(|d| &d.result.artifacts),
        "metrics": done.map(|d| &d.result.metrics),
    })
}
