//! The fetches of a command: what a workflow lacks is fetched, pinned in the lock, and resolved again.

use std::mem::ManuallyDrop;

use refrain_engine::graph::NodeId;
use refrain_engine::kind::Cancel;
use refrain_engine::kind::machine::Machine;
use refrain_engine::language::diagnostic::{Diagnostic, Diagnostics, suggest};
use refrain_engine::language::explain::{ErrorClass, Explain};
use refrain_engine::ledger::lock;
use refrain_engine::source::fetched::FindFetched;
use refrain_engine::source::upstream::Upstream;
use refrain_hub::{FetchError, Fetched, Fetcher, Transfer};

use crate::cli::WorkflowArgs;
use crate::command_error::CommandError;
use crate::hub::{self, Finder};
use crate::progress_line;
use crate::session::{Opened, Session, Sources};

/// A source as a fetch leaves it.
pub struct FetchedSource {
    /// Its name.
    pub name: String,
    /// Where it comes from.
    pub upstream: Upstream,
    /// The files, and what arrived of them.
    pub fetched: Fetched,
}

/// The fetches of a command.
pub struct Fetches<'a> {
    /// The workflow.
    pub opened: &'a Opened,
    /// Its arguments.
    pub arguments: &'a WorkflowArgs,
    /// The configuration of the machine.
    pub machine: &'a Machine,
    /// The sources that are fetched anew.
    pub moved: &'a [String],
    /// The stages and nodes that are wanted, with what they are made from; all where none is named.
    pub only: &'a [String],
    /// Whether the lock must stay as it is.
    pub is_locked: bool,
    /// A request to stop.
    pub cancel: &'a Cancel,
}

impl Fetches<'_> {
    /// Fetches what a resolved workflow lacks, and resolves it again with that: what is fetched may
    /// be an adapter whose base is to be fetched too.
    ///
    /// The pins enter the lock before anything is run.
    pub fn complete(
        &self,
        mut session: ManuallyDrop<Session>,
        mut finder: Finder,
    ) -> Result<(ManuallyDrop<Session>, Vec<FetchedSource>), CommandError> {
        self.check_moved(&session)?;
        let mut done = Vec::new();
        let mut fetcher = None;
        loop {
            let marked =
                session.all_nodes(self.only)?.map(|targets| session.graph.upstream(&targets));
            let is_wanted = |id: NodeId| marked.as_ref().is_none_or(|marked| marked[id.index()]);
            let missing: Vec<(NodeId, Upstream)> = session
                .graph
                .unfetched()
                .filter(|(id, _)| is_wanted(*id))
                .map(|(id, upstream)| (id, upstream.clone()))
                .collect();
            if missing.is_empty() {
                return Ok((session, done));
            }

            let mut pins = Vec::new();
            let mut failed = None;
            for (id, upstream) in missing {
                let name = session.graph.node(id).stage.clone();
                // A swept source may have nodes with the same files.
                if finder.has_fetched(&name, &upstream) {
                    continue;
                }
                let fetched = self.one(&mut fetcher, &session, id, &finder, &upstream);
                match fetched {
                    Ok(fetched) => {
                        pins.extend(fetched.found.pin.clone());
                        finder.add(&name, &upstream, fetched.found.clone());
                        done.push(FetchedSource { name, upstream, fetched });
                    }
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            // What was fetched before an error is pinned too.
            if !session.overridden && !self.is_locked && !pins.is_empty() {
                lock::pin(&session.lock, &pins)?;
            }
            if let Some(error) = failed {
                return Err(error);
            }
            let opened = self.opened.clone();
            session = Session::with(opened, self.arguments, Sources::Present, &finder)?;
        }
    }

    /// Refuses names that are not sources from the hub.
    fn check_moved(&self, session: &Session) -> Result<(), CommandError> {
        let graph = &session.graph;
        let of_hub: Vec<&str> = graph
            .fetched
            .iter()
            .filter(|(_, source)| matches!(source.upstream, Upstream::Hub(_)))
            .map(|(id, _)| graph.node(*id).stage.as_str())
            .collect();
        let Some(name) = self.moved.iter().find(|name| !of_hub.contains(&name.as_str())) else {
            return Ok(());
        };
        let mut known = of_hub.clone();
        known.sort_unstable();
        known.dedup();
        let message = format!("`{name}` is not a source from the hub that a stage reads");
        let hint = suggest(name, known, "those are");
        Err(CommandError::Plain { message, hint, class: ErrorClass::Input })
    }

    fn one(
        &self,
        fetcher: &mut Option<Fetcher>,
        session: &Session,
        id: NodeId,
        finder: &Finder,
        upstream: &Upstream,
    ) -> Result<Fetched, CommandError> {
        let node = session.graph.node(id);
        let name = &node.stage;
        let pin = finder.pin(name, upstream);
        let is_pinned = finder.is_pinned(name, upstream);
        if self.is_locked && !is_pinned {
            return Err(CommandError::with_hint(
                ErrorClass::Difference,
                format!("the lock does not pin `{name}`, and `--locked` forbids updating it"),
                "`refrain run` without `--locked` pins it",
            ));
        }
        let error = |error: FetchError| {
            let (message, hint, class) = (error.to_string(), error.hint(), error.class());
            let message = format!("cannot fetch `{name}`: {message}");
            // A line with the address would show its query, which may hold a secret.
            let is_secret = matches!(upstream, Upstream::Web(web) if web.url.query().is_some());
            if class != ErrorClass::Input || is_secret {
                return CommandError::Plain { message, hint, class };
            }
            let diagnostic = Diagnostic::at(node.span.clone(), message).maybe_hint(hint);
            let source = session.graph.workflow.source.clone();
            Diagnostics::new(source, vec![diagnostic]).into()
        };
        if hub::is_offline() {
            return Err(error(FetchError::Offline { what: upstream.to_string() }));
        }
        let fetcher = match fetcher {
            Some(fetcher) => fetcher,
            None => fetcher.insert(self.fetcher().map_err(error)?),
        };
        let transfer = Transfer::default();
        let fetched = progress_line::beside(&|| transfer.so_far(), || {
            fetcher.fetch(name, upstream, pin, &transfer, self.cancel)
        });
        fetched.map_err(error)
    }

    fn fetcher(&self) -> Result<Fetcher, FetchError> {
        let places = hub::places().ok_or(FetchError::NoFolder)?;
        Fetcher::new(hub::settings(self.machine.fetch.max_size)?, places)
    }
}
