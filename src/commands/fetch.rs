//! `refrain fetch`: fetches the sources of a workflow that lie on the hub or on the web.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_engine::graph::NodeId;
use refrain_engine::kind::Cancel;
use refrain_engine::source::fetched::Pin;
use refrain_engine::source::upstream::Upstream;

use crate::cli::{FetchArgs, Format};
use crate::command_error::CommandError;
use crate::config::Config;
use crate::fetches::{FetchedSource, Fetches};
use crate::hub::Finder;
use crate::session::{Opened, Session, Sources};
use crate::{human, interrupt, output};

/// Characters of a commit that are shown.
const SHOWN: usize = 8;

/// Fetches what is not there, and pins it in the lock.
pub fn fetch(
    arguments: &FetchArgs,
    config: Option<&Path>,
    format: Format,
) -> Result<ExitCode, CommandError> {
    let machine = Config::read(config)?.machine;
    let opened = Opened::new(&arguments.workflow)?;
    let finder = Finder::with_network(&opened.lock, &arguments.update, false);
    let session = Session::with(opened.clone(), &arguments.workflow, Sources::Present, &finder)?;
    // A lock that cannot be read is told of before anything is fetched.
    session.lock()?;
    let cancel = Cancel::default();
    interrupt::cancels(&cancel)?;
    let fetches = Fetches {
        opened: &opened,
        arguments: &arguments.workflow,
        machine: &machine,
        moved: &arguments.update,
        only: &[],
        is_locked: false,
        cancel: &cancel,
    };
    let (session, fetched) = fetches.complete(session, finder)?;

    let sources = rows(&session, &fetched);
    if format == Format::Json {
        output::json(&json!({ "refrain": 1, "exit_code": 0, "sources": sources }));
        return Ok(ExitCode::SUCCESS);
    }
    for source in &sources {
        output::line(&line(source));
    }
    if sources.is_empty() {
        output::line("no stage reads a source from the hub or the web");
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes each source from the hub or the web, in the order of the graph.
fn rows(session: &Session, fetched: &[FetchedSource]) -> Vec<Value> {
    let graph = &session.graph;
    let mut ids: Vec<NodeId> = graph.fetched.keys().copied().collect();
    ids.sort_unstable();
    let row = |id: NodeId| {
        let (node, source) = (graph.node(id), &graph.fetched[&id]);
        let is_same =
            |one: &&FetchedSource| one.name == node.stage && one.upstream == source.upstream;
        let new = fetched.iter().find(is_same);
        let (commit, files) = match &source.pin {
            Some(Pin::Hub(pin)) => (Some(pin.commit.as_str()), Some(pin.files.len())),
            Some(Pin::Web(_)) => (None, Some(1)),
            None => (None, None),
        };
        let revision = match &source.upstream {
            Upstream::Hub(hub) => Some(hub.revision.as_str()),
            Upstream::Web(_) => None,
        };
        json!({
            "source": node.name,
            "from": source.upstream.to_string(),
            "revision": revision,
            "commit": commit,
            "files": files,
            "bytes": new.map_or(0, |new| new.fetched.bytes),
            "path": node.work.source().map(|place| place.path),
        })
    };
    ids.into_iter().map(row).collect()
}

fn line(source: &Value) -> String {
    let text = |name: &str| source[name].as_str();
    let at = match (text("commit"), text("revision")) {
        (Some(commit), Some(revision)) if commit != revision => {
            format!(" at {} ({revision})", &commit[..SHOWN])
        }
        (Some(commit), _) => format!(" at {}", &commit[..SHOWN]),
        _ => String::new(),
    };
    let files = source["files"].as_u64().map(|files| output::count(files as usize, "file"));
    let arrived = match source["bytes"].as_u64().unwrap_or_default() {
        0 => "nothing to fetch".to_owned(),
        bytes => format!("{} fetched", human::size(bytes)),
    };
    let files = files.map(|files| format!("{files}, ")).unwrap_or_default();
    let (name, from) = (text("source").unwrap_or_default(), text("from").unwrap_or_default());
    format!("`{name}`: {from}{at}, {files}{arrived}")
}
