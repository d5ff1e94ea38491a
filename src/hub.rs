//! The hub and the web of the command line: settings from the environment, sources that are found,
//! and those that are fetched.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use refrain_cache::read_plain;
use refrain_engine::graph::NodeId;
use refrain_engine::kind::Cancel;
use refrain_engine::kind::machine::Machine;
use refrain_engine::language::diagnostic::{Diagnostic, Diagnostics, suggest};
use refrain_engine::language::explain::{ErrorClass, Explain};
use refrain_engine::ledger::lock::{self, Lock};
use refrain_engine::source::fetched::{FindFetched, Found, HubPin, Pin, PinKey};
use refrain_engine::source::upstream::Upstream;
use refrain_hub::{FetchError, Fetched, Fetcher, Lookup, Places, Settings, Token, Transfer};

use crate::cli::WorkflowArgs;
use crate::command_error::CommandError;
use crate::progress_line;
use crate::session::{Opened, Session, Sources};

/// Limit on the bytes of a file with a token.
const MAX_TOKEN: u64 = 64 << 10;

/// Finds fetched sources, as the lock pins them.
pub struct Finder {
    lock: PathBuf,
    pins: OnceCell<BTreeMap<PinKey, Pin>>,
    places: Option<Places>,
    /// Whether a source that the lock does not pin is taken as the cache has it.
    takes_unpinned: bool,
    /// The sources whose pins do not count.
    moved: Vec<String>,
    /// The sources that this process fetched.
    fetched: BTreeMap<PinKey, Found>,
}

impl Finder {
    /// Finds what is there, for a command that uses no network.
    pub fn without_network(lock: &Path) -> Finder {
        Finder {
            lock: lock.into(),
            pins: OnceCell::new(),
            places: places(),
            takes_unpinned: true,
            moved: Vec::new(),
            fetched: BTreeMap::new(),
        }
    }

    /// Finds what need not be fetched, for a command that fetches the rest. The named sources are
    /// fetched anew.
    pub fn with_network(lock: &Path, moved: &[String]) -> Finder {
        let takes_unpinned = is_offline();
        Finder { takes_unpinned, moved: moved.to_vec(), ..Finder::without_network(lock) }
    }

    fn pins(&self) -> &BTreeMap<PinKey, Pin> {
        // Whatever is wrong with the lock is told where it is read for itself.
        self.pins.get_or_init(|| Lock::read(&self.lock).map(|lock| lock.fetched).unwrap_or_default())
    }

    fn is_moved(&self, name: &str) -> bool {
        self.moved.iter().any(|moved| moved == name)
    }

    /// Returns the pin of a source's revision, also one that was made for other files of it.
    fn pin(&self, name: &str, upstream: &Upstream) -> Option<&HubPin> {
        if self.is_moved(name) {
            return None;
        }
        let key = PinKey::new(name, upstream);
        let same = || self.pins().iter().find(|(other, _)| other.is_of_same_revision(&key));
        match self.pins().get(&key).or_else(|| same().map(|(_, pin)| pin))? {
            Pin::Hub(pin) => Some(pin),
            Pin::Web(_) => None,
        }
    }
}

impl FindFetched for Finder {
    fn find(&self, name: &str, upstream: &Upstream) -> Option<Found> {
        if let Some(found) = self.fetched.get(&PinKey::new(name, upstream)) {
            return Some(found.clone());
        }
        let places = self.places.as_ref()?;
        let (pin, is_pinned) = (self.pin(name, upstream), self.is_pinned(name, upstream));
        let lookup = match (upstream, pin) {
            (Upstream::Hub(_), Some(pin)) if is_pinned => Lookup::Pinned(pin),
            (Upstream::Hub(_), Some(pin)) => Lookup::AtCommit(&pin.commit),
            (Upstream::Hub(_), None) if !self.takes_unpinned => return None,
            _ => Lookup::AsCached,
        };
        places.find(name, upstream, lookup)
    }

    fn is_pinned(&self, name: &str, upstream: &Upstream) -> bool {
        !self.is_moved(name) && self.pins().contains_key(&PinKey::new(name, upstream))
    }
}

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
    /// Whether the lock must stay as it is.
    pub is_locked: bool,
    /// A request to stop.
    pub cancel: &'a Cancel,
}

impl Fetches<'_> {
    /// Fetches what a resolved workflow lacks, and resolves it again with that: what is fetched may
    /// be an adapter whose base is to be fetched too. `wanted` says which nodes count.
    ///
    /// The pins enter the lock before anything is run.
    pub fn complete(
        &self,
        mut session: ManuallyDrop<Session>,
        mut finder: Finder,
        wanted: &dyn Fn(&Session) -> Result<Option<Vec<NodeId>>, CommandError>,
    ) -> Result<(ManuallyDrop<Session>, Vec<FetchedSource>), CommandError> {
        self.check_moved(&session)?;
        let mut done = Vec::new();
        let mut fetcher = None;
        loop {
            let marked = wanted(&session)?.map(|targets| session.graph.upstream(&targets));
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
                let key = PinKey::new(&name, &upstream);
                // A swept source may have nodes with the same files.
                if finder.fetched.contains_key(&key) {
                    continue;
                }
                let fetched = self.one(&mut fetcher, &session, id, &finder, &upstream);
                match fetched {
                    Ok(fetched) => {
                        pins.extend(fetched.found.pin.clone());
                        finder.fetched.insert(key, fetched.found.clone());
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
                lock::pin(&session.lock, &pins, self.moved)?;
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
            if class != ErrorClass::Input {
                return CommandError::Plain { message, hint, class };
            }
            let diagnostic = Diagnostic::at(node.span.clone(), message).maybe_hint(hint);
            let source = session.graph.workflow.source.clone();
            Diagnostics::new(source, vec![diagnostic]).into()
        };
        if is_offline() {
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
        let places = places().ok_or(FetchError::NoFolder)?;
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let names = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        let proxies = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
        let settings = Settings {
            endpoint: Settings::endpoint(endpoint.trim_end_matches('/'))?,
            token: token(),
            proxy: proxies.into_iter().find_map(variable),
            no_proxy: names.split(',').map(str::to_owned).collect(),
            max_size: self.machine.fetch.max_size,
        };
        Fetcher::new(settings, places)
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_true(name: &str) -> bool {
    let value = variable(name).unwrap_or_default().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

/// Whether the network may not be used.
pub fn is_offline() -> bool {
    match variable("HF_HUB_OFFLINE") {
        Some(_) => is_true("HF_HUB_OFFLINE"),
        None => is_true("TRANSFORMERS_OFFLINE"),
    }
}

/// Returns the folders for fetched files; `None` where the system names none.
pub fn places() -> Option<Places> {
    let home = folder_of_hub();
    let named = |names: [&str; 2], last: &str| {
        let folder = names.into_iter().find_map(variable).map(|text| expanded(&text));
        folder.or_else(|| Some(home.as_ref()?.join(last)))
    };
    Some(Places {
        hub: absolute(named(["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"], "hub")?)?,
        assets: absolute(named(["HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE"], "assets")?)?,
    })
}

fn absolute(path: PathBuf) -> Option<PathBuf> {
    std::path::absolute(path).ok()
}

/// Returns Hugging Face's own folder.
fn folder_of_hub() -> Option<PathBuf> {
    if let Some(folder) = variable("HF_HOME") {
        return Some(expanded(&folder));
    }
    let caches = variable("XDG_CACHE_HOME").map(|text| expanded(&text));
    Some(caches.or_else(|| Some(expanded("~").join(".cache")).filter(|path| path.is_absolute()))?
        .join("huggingface"))
}

/// Replaces a leading `~` by the user's folder.
fn expanded(text: &str) -> PathBuf {
    let path = Path::new(text);
    match (path.strip_prefix("~"), variable("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.into(),
    }
}

/// Reads the token for the hub: the variable, or the file that `hf auth login` writes.
fn token() -> Option<Token> {
    if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return None;
    }
    let named = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(variable);
    if let Some(token) = named {
        return Token::new(&token);
    }
    let path = variable("HF_TOKEN_PATH").map(|path| expanded(&path));
    let path = path.or_else(|| Some(folder_of_hub()?.join("token")))?;
    Token::new(&String::from_utf8(read_plain(&path, MAX_TOKEN).ok()?).ok()?)
}
