//! What every command begins with: the workflow read and resolved, the cache opened.

use std::cell::OnceCell;
use std::io::ErrorKind;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refrain_cache::{Sharing, read_plain};
use refrain_engine::graph::{Graph, NodeId};
use refrain_engine::language::diagnostic::{Diagnostics, SourceText};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::language::workflow::{Override, Workflow};
use refrain_engine::language::yaml::MAX_BYTES;
use refrain_engine::ledger::lock::{self, Lock, LockError};
use refrain_engine::ledger::run_log::{self, LastRuns, RunCourse};
use refrain_engine::report::comparison::{Comparisons, Stated};
use refrain_engine::report::expect::{self, Expect};
use refrain_engine::report::metric_names::{self, MetricReference};
use refrain_engine::report::results::{self, ResultColumns};
use refrain_engine::store::Store;

use crate::cli::{self, SandboxArg};
use crate::command_error::CommandError;
use crate::hub::Finder;
use crate::output;

/// A workflow that is ready to be planned.
pub struct Session {
    /// Its graph.
    pub graph: Graph,
    /// Its comparisons, and the conditions on them.
    pub comparisons: Comparisons,
    /// Its conditions on metrics.
    pub expects: Vec<Expect>,
    /// The metrics that its table shows.
    pub columns: ResultColumns,
    /// Where its lock lies.
    pub lock: PathBuf,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Whether `--set` was given.
    pub overridden: bool,
}

/// The sources of a workflow whose files are absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sources {
    /// They are an error.
    Present,
    /// They are taken as the lock says, where it names them.
    Recorded,
}

/// The text of a workflow, and the folders that go with it.
#[derive(Clone)]
pub struct Opened {
    /// The text, with its path as it was given.
    pub source: SourceText,
    /// The folder of the cache, absolute.
    pub cache: PathBuf,
    /// Where its lock lies.
    pub lock: PathBuf,
}

impl Opened {
    /// Reads the workflow of the command line.
    pub fn new(arguments: &cli::WorkflowArgs) -> Result<Opened, CommandError> {
        let path = &arguments.workflow;
        let text = read_plain(path, MAX_BYTES as u64).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                CommandError::new(ErrorClass::Input, format!("there is no `{}`", path.display()))
            }
            ErrorKind::IsADirectory => CommandError::new(
                ErrorClass::Input,
                format!("`{}` is a folder, not a workflow", path.display()),
            ),
            ErrorKind::InvalidInput | ErrorKind::FileTooLarge => CommandError::new(
                ErrorClass::Input,
                format!("`{}` is not a workflow: {e}", path.display()),
            ),
            _ => CommandError::new(
                ErrorClass::Environment,
                format!("cannot read `{}`: {e}", path.display()),
            ),
        })?;
        let text = String::from_utf8(text).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            CommandError::new(
                ErrorClass::Input,
                format!("`{}` is not UTF-8: byte {at} is wrong", path.display()),
            )
        })?;
        let source = SourceText::new(path, text);
        let cache = cache_folder(arguments.cache.as_deref(), source.folder().join(".refrain"))?;
        Ok(Opened { source, cache, lock: lock::path_of(path) })
    }
}

/// The folder of the cache, absolute: the one that is named, or else `beside`.
pub fn cache_folder(named: Option<&Path>, beside: PathBuf) -> Result<PathBuf, CommandError> {
    let folder = match (named, std::env::var_os("REFRAIN_CACHE")) {
        (Some(folder), _) => folder.into(),
        (None, Some(folder)) if !folder.is_empty() => folder.into(),
        _ => beside,
    };
    absolute(&folder)
}

/// A path from the root.
pub fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    std::path::absolute(path).map_err(|e| {
        CommandError::new(
            ErrorClass::Environment,
            format!("`{}` is not a path: {e}", path.display()),
        )
    })
}

impl Session {
    /// Reads and resolves the workflow of the command line.
    pub fn open(arguments: &cli::WorkflowArgs) -> Result<ManuallyDrop<Session>, CommandError> {
        Session::of(Opened::new(arguments)?, arguments, Sources::Recorded)
    }

    /// Resolves a workflow that was read, without a network.
    pub fn of(
        opened: Opened,
        arguments: &cli::WorkflowArgs,
        sources: Sources,
    ) -> Result<ManuallyDrop<Session>, CommandError> {
        let finder = Finder::without_network(&opened.lock);
        Session::with(opened, arguments, sources, &finder)
    }

    /// Resolves a workflow that was read, with the fetched sources that a finder finds. It is not given back to the
    /// system piece by piece at the end, when the system takes all at once.
    pub fn with(
        opened: Opened,
        arguments: &cli::WorkflowArgs,
        sources: Sources,
        finder: &Finder,
    ) -> Result<ManuallyDrop<Session>, CommandError> {
        let Opened { source, cache, lock } = opened;
        let kinds = match arguments.sandbox {
            SandboxArg::Full => refrain_stages::kinds(),
            SandboxArg::Weaker => refrain_stages::kinds_with_weaker_sandbox(),
        };
        let workflow = Workflow::parse(source, &kinds, &overrides(&arguments.set)?)?;
        let mut problems = Vec::new();
        let declared = match arguments.set.is_empty() {
            true => None,
            false => Workflow::parse(workflow.source.clone(), &kinds, &[]).ok().map(|w| w.axes),
        };
        let declared = declared.as_deref().unwrap_or(&workflow.axes);
        let expects = expect::parse(&workflow, declared, &mut problems);
        let stated = Stated::parse(&workflow, declared, &mut problems);
        let columns = results::parse(&workflow, &mut problems);
        let source = workflow.source.clone();
        // Read only where a source is absent.
        let recorded: OnceCell<Option<Lock>> = OnceCell::new();
        let find = |name: &str| {
            let lock = recorded.get_or_init(|| Lock::read(&lock).ok());
            lock.as_ref()?.entries.get(name)?.recorded()
        };
        let graph = match sources {
            Sources::Present => Graph::build_with(workflow, &|_| None, finder),
            Sources::Recorded => Graph::build_with(workflow, &find, finder),
        };
        let (graph, comparisons) = match graph {
            Ok(graph) if problems.is_empty() => {
                let of_expects = expects.iter().flat_map(|expect| &expect.of.metrics);
                let figures: Vec<MetricReference> = stated.figures().collect();
                let named = of_expects.chain(columns.metrics()).chain(&figures);
                problems = metric_names::check(&graph, named);
                let comparisons = stated.pair(&graph, &mut problems);
                (graph, comparisons)
            }
            Ok(_) => return Err(Diagnostics::new(source, problems).into()),
            Err(mut diagnostics) => {
                problems.append(&mut diagnostics.items);
                return Err(Diagnostics::new(source, problems).into());
            }
        };
        if !problems.is_empty() {
            return Err(Diagnostics::new(source, problems).into());
        }

        let overridden = !arguments.set.is_empty();
        Ok(ManuallyDrop::new(Session {
            graph,
            comparisons,
            expects,
            columns,
            lock,
            cache,
            overridden,
        }))
    }

    /// Returns the axes, params and sources that nothing reads, as problems.
    pub fn unread(&self) -> Diagnostics {
        Diagnostics::new(self.graph.workflow.source.clone(), self.graph.unread.clone())
    }

    /// Names the sources that are not fetched, each once.
    pub fn unfetched(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.graph.unfetched().map(|(id, _)| self.graph.node(id).stage.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Tells of sources that are not fetched, whose content no command without a network knows.
    pub fn tell_unfetched(&self) {
        let names: Vec<String> = self.unfetched().iter().map(|name| format!("`{name}`")).collect();
        if names.is_empty() {
            return;
        }
        output::remark(&format!(
            "note: content and columns of {} are not known until fetched\n  = help: `refrain fetch {}`",
            names.join(", "),
            self.graph.workflow.source.path.display()
        ));
    }

    /// Opens the cache, which makes it where it is not there.
    pub fn store(&self) -> Result<Store, CommandError> {
        Ok(Store::open_shared(&self.cache, sharing())?)
    }

    /// As [`Session::store`], for a run.
    pub fn store_for_run(&self) -> Result<Store, CommandError> {
        Ok(Store::open_for_run(&self.cache, sharing())?)
    }

    /// Opens the cache only where it is there.
    pub fn existing_store(&self) -> Result<Option<Store>, CommandError> {
        existing_store(&self.cache)
    }

    /// The lock, empty where there is none.
    pub fn lock(&self) -> Result<Lock, CommandError> {
        read_lock(&self.lock)
    }

    /// What the logged runs of the workflow say of its nodes.
    pub fn last_runs(&self) -> LastRuns {
        let workflow = absolute(&self.graph.workflow.source.path);
        workflow
            .map(|workflow| run_log::last_runs(&self.cache.join("runs"), &workflow))
            .unwrap_or_default()
    }

    /// The last run of the workflow that computed anything, as its log tells it.
    pub fn course(&self) -> Option<RunCourse> {
        let workflow = absolute(&self.graph.workflow.source.path).ok()?;
        run_log::course(&self.cache.join("runs"), &workflow)
    }

    /// The logged runs of the workflow, the last one first.
    pub fn courses(&self) -> Vec<RunCourse> {
        let workflow = absolute(&self.graph.workflow.source.path);
        let courses = |workflow: PathBuf| run_log::courses(&self.cache.join("runs"), &workflow);
        workflow.map(courses).into_iter().flatten().collect()
    }

    /// The nodes that a name on the command line means: one node, all of a stage, or all of an
    /// include.
    pub fn nodes(&self, name: &str) -> Result<Vec<NodeId>, CommandError> {
        let graph = &self.graph;
        let ids: Vec<NodeId> = graph
            .ids()
            .filter(|id| graph.node(*id).name == name || graph.node(*id).stage == name)
            .collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
        let part = format!("{name}/");
        let included: Vec<NodeId> = graph
            .ids()
            .filter(|id| graph.node(*id).stage.starts_with(&part) && !graph.node(*id).is_source())
            .collect();
        if !included.is_empty() {
            return Ok(included);
        }
        // Of a stage that is there, its nodes; else the stages: a sweep may have thousands of nodes.
        let stage = name.split('[').next().unwrap_or(name);
        let of_stage = graph.nodes.iter().filter(|n| n.stage == stage).map(|n| n.name.as_str());
        let mut known: Vec<&str> = of_stage.collect();
        if known.is_empty() {
            known = graph.nodes.iter().map(|n| n.stage.as_str()).collect();
            known.sort_unstable();
            known.dedup();
        }
        let hint = refrain_engine::language::diagnostic::suggest(name, known, "there are");
        let message = format!("there is no stage or node `{name}`");
        Err(CommandError::Plain { message, hint, class: ErrorClass::Input })
    }

    /// The nodes that several names mean; `None` where no name is given.
    pub fn all_nodes(&self, names: &[String]) -> Result<Option<Vec<NodeId>>, CommandError> {
        if names.is_empty() {
            return Ok(None);
        }
        let nodes = names.iter().map(|name| self.nodes(name));
        Ok(Some(nodes.collect::<Result<Vec<_>, _>>()?.concat()))
    }

    /// The one node that a name means.
    pub fn node(&self, name: &str) -> Result<NodeId, CommandError> {
        match self.nodes(name)?.as_slice() {
            [one] => Ok(*one),
            many => {
                let names: Vec<String> = many
                    .iter()
                    .take(20)
                    .map(|id| format!("`{}`", self.graph.node(*id).name))
                    .collect();
                Err(CommandError::with_hint(
                    ErrorClass::Input,
                    format!("`{name}` stands for {} nodes", many.len()),
                    format!("name one of {}", names.join(", ")),
                ))
            }
        }
    }
}

/// Reads a lock, empty where there is none.
pub fn read_lock(lock: &Path) -> Result<Lock, CommandError> {
    match Lock::read(lock) {
        Err(LockError::Missing(_)) => Ok(Lock::default()),
        other => Ok(other?),
    }
}

/// Opens the cache in a folder, unless there is none.
pub fn existing_store(cache: &Path) -> Result<Option<Store>, CommandError> {
    let there = cache.join("format").exists();
    Ok(there.then(|| Store::open_shared(cache, sharing())).transpose()?)
}

/// How this process shares the cache. The variables are for tests, which cannot wait for a whole lease.
pub fn sharing() -> Sharing {
    let usual = Sharing::default();
    let lease = std::env::var("REFRAIN_TEST_LEASE_MS").ok().and_then(|text| text.parse().ok());
    Sharing {
        lease: lease.map_or(usual.lease, Duration::from_millis),
        file_locks: usual.file_locks && std::env::var_os("REFRAIN_TEST_NO_LOCKS").is_none(),
    }
}

fn overrides(set: &[String]) -> Result<Vec<Override>, CommandError> {
    set.iter()
        .map(|text| match text.split_once('=') {
            Some((name, value)) => Ok(Override { name: name.trim().into(), value: value.into() }),
            None => Err(CommandError::with_hint(
                ErrorClass::Input,
                format!("`--set {text}` has no value"),
                "write `--set NAME=VALUE`",
            )),
        })
        .collect()
}
