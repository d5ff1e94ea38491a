//! The hub as this process sees it: settings from the environment, and fetched sources that are found.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refrain_cache::read_plain;
use refrain_engine::ledger::lock::Lock;
use refrain_engine::source::fetched::{FindFetched, Found, HubPin, Pin, PinKey};
use refrain_engine::source::upstream::Upstream;
use refrain_hub::{FetchError, Lookup, Places, Settings, Token};

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
    /// fetched anew; with `is_locked` only what the lock pins counts.
    pub fn with_network(lock: &Path, moved: &[String], is_locked: bool) -> Finder {
        let takes_unpinned = is_offline() && !is_locked;
        Finder { takes_unpinned, moved: moved.to_vec(), ..Finder::without_network(lock) }
    }

    fn pins(&self) -> &BTreeMap<PinKey, Pin> {
        // Whatever is wrong with the lock is told where it is read for itself.
        self.pins
            .get_or_init(|| Lock::read(&self.lock).map(|lock| lock.fetched).unwrap_or_default())
    }

    fn is_moved(&self, name: &str) -> bool {
        self.moved.iter().any(|moved| moved == name)
    }

    /// Takes up a source that was fetched.
    pub fn add(&mut self, name: &str, upstream: &Upstream, found: Found) {
        self.fetched.insert(PinKey::new(name, upstream), found);
    }

    /// Whether a source was fetched by this process.
    pub fn has_fetched(&self, name: &str, upstream: &Upstream) -> bool {
        self.fetched.contains_key(&PinKey::new(name, upstream))
    }

    /// Returns the pin of a source's revision, also one that was made for other files of it.
    pub fn pin(&self, name: &str, upstream: &Upstream) -> Option<&HubPin> {
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
        if self.is_moved(name) {
            return None;
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

/// Reads the settings of a fetch.
///
/// # Errors
/// [`FetchError::Endpoint`].
pub fn settings(max_size: u64) -> Result<Settings, FetchError> {
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
    let names = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
    let proxies = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    Ok(Settings {
        endpoint: Settings::endpoint(endpoint.trim_end_matches('/'))?,
        token: token(),
        proxy: proxies.into_iter().find_map(variable),
        no_proxy: names.split(',').map(str::to_owned).collect(),
        max_size,
    })
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
    Some(
        caches
            .or_else(|| Some(expanded("~").join(".cache")).filter(|path| path.is_absolute()))?
            .join("huggingface"),
    )
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
