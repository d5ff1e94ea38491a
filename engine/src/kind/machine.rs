//! The programs and servers of a machine, as its configuration names them. Nothing here enters a
//! key.
//!
//! The binary reads the configuration and hands it to a run; a stage finds it in its context.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::language::units::{self, Money};

/// The programs and servers that stages may use on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Python, for trainers.
    pub python: Python,
    /// Servers of model folders, for `backend: server`. The first that fits a model is taken.
    pub servers: Vec<Server>,
    /// Limits of requests to servers.
    pub requests: Requests,
    /// Its prices.
    pub prices: Prices,
    /// Remote caches of which more is known than their address.
    pub remotes: Vec<RemoteCache>,
    /// Limits of fetches from the hub and the web.
    pub fetch: Fetch,
    /// Executors by the names that `--executor` knows.
    pub executors: BTreeMap<String, ExecutorConfig>,
}

static EMPTY: Machine = Machine {
    python: Python { path: None, launcher: Vec::new() },
    servers: Vec::new(),
    requests: Requests::USUAL,
    prices: Prices { gpu_hour: None, tokens: Vec::new() },
    remotes: Vec::new(),
    fetch: Fetch::USUAL,
    executors: BTreeMap::new(),
};

impl Machine {
    /// Returns the machine of which no configuration says anything.
    pub fn empty() -> &'static Machine {
        &EMPTY
    }

    /// Whether results of a remote cache are taken that no lock names.
    pub fn trusts(&self, address: &str) -> bool {
        let same = |remote: &RemoteCache| {
            remote.address.trim_end_matches('/') == address.trim_end_matches('/')
        };
        self.remotes.iter().any(|remote| remote.trust && same(remote))
    }

    /// Finds the server of the model in a folder, or of a GGUF file.
    pub fn server_of(&self, model: &Path) -> Option<&Server> {
        let is_same = |named: &Path| {
            named == model
                || matches!((named.canonicalize(), model.canonicalize()), (Ok(a), Ok(b)) if a == b)
        };
        self.servers.iter().find(|server| server.model.as_deref().is_none_or(is_same))
    }
}

/// Python and the launcher of trainers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Python {
    /// The interpreter; a name without `/` is looked up in `PATH`.
    pub path: Option<PathBuf>,
    /// The words of a command that starts a trainer, in the place of the interpreter alone.
    pub launcher: Vec<String>,
}

impl Python {
    /// Returns the interpreter: the one that is named, or else `python3`.
    pub fn program(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("python3"))
    }
}

/// Limits of requests to servers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// The longest that a row may take, all its attempts together.
    #[serde(deserialize_with = "duration")]
    pub time_limit: Duration,
}

impl Requests {
    const USUAL: Requests = Requests { time_limit: Duration::from_secs(30 * 60) };
}

impl Default for Requests {
    fn default() -> Requests {
        Requests::USUAL
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    units::duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Limits of fetches from the hub and the web.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// Limit on the bytes of a file.
    #[serde(deserialize_with = "size")]
    pub max_size: u64,
}

impl Fetch {
    const USUAL: Fetch = Fetch { max_size: 1_000_000_000_000 };
}

impl Default for Fetch {
    fn default() -> Fetch {
        Fetch::USUAL
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    units::size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A remote cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteCache {
    /// The address, as `--remote` has it.
    pub address: String,
    /// Whether results are taken from it that no lock names.
    #[serde(default)]
    pub trust: bool,
}

/// The prices of a machine, in one currency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PriceFields")]
pub struct Prices {
    /// The price of one graphics card for an hour.
    pub gpu_hour: Option<Money>,
    /// The prices of tokens of models at servers. The first that fits a model is taken.
    pub tokens: Vec<TokenPrice>,
}

/// The price of a million tokens of a model at a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenPrice {
    /// The name of the model at its server; any where absent.
    pub model: Option<String>,
    /// Of tokens that are sent.
    pub input: Option<Money>,
    /// Of tokens that are generated.
    pub output: Option<Money>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct PriceFields {
    gpu_hour: Option<Money>,
    tokens: Vec<TokenPrice>,
}

impl TryFrom<PriceFields> for Prices {
    type Error = String;

    fn try_from(fields: PriceFields) -> Result<Prices, String> {
        let PriceFields { gpu_hour, tokens } = fields;
        let prices = Prices { gpu_hour, tokens };
        let first = prices.currency().unwrap_or_default();
        if let Some(price) = prices.all().find(|price| price.currency != first) {
            let other = &price.currency;
            return Err(format!(
                "prices are in one currency, and these are in {first} and {other}"
            ));
        }
        Ok(prices)
    }
}

impl Prices {
    fn all(&self) -> impl Iterator<Item = &Money> {
        let of_tokens = self.tokens.iter().flat_map(|price| [&price.input, &price.output]);
        [&self.gpu_hour].into_iter().chain(of_tokens).flatten()
    }

    /// Returns the currency of the prices; `None` where there are none.
    pub fn currency(&self) -> Option<&str> {
        self.all().next().map(|price| price.currency.as_str())
    }

    /// Finds the price of the tokens of a model, by its name at its server.
    pub fn of_tokens(&self, model: Option<&str>) -> Option<&TokenPrice> {
        let fits = |price: &&TokenPrice| price.model.is_none() || price.model.as_deref() == model;
        self.tokens.iter().find(fits)
    }
}

/// A server of model folders.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ServerFields")]
pub struct Server {
    /// The folder, or the GGUF file, of the one model that it serves; any where absent.
    pub model: Option<PathBuf>,
    /// The way to it.
    pub access: ServerAccess,
    /// The name of the environment variable that holds its key.
    pub key_variable: Option<String>,
}

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAccess {
    /// It runs.
    Running {
        /// The address, up to `/v1`.
        address: String,
        /// The name that it gives the model; where absent, it offers one model.
        name: Option<String>,
    },
    /// It is started for a model, and ended with the run.
    Start {
        /// The words of the command, in which `{model}` and `{port}` are replaced.
        command: Vec<String>,
        /// The longest that it may take until it answers.
        timeout: Duration,
    },
}

/// Time that a server may take to load a model where the configuration does not say.
const START: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerFields {
    model: Option<PathBuf>,
    address: Option<String>,
    name: Option<String>,
    key_variable: Option<String>,
    command: Option<Vec<String>>,
    start_timeout: Option<String>,
}

impl TryFrom<ServerFields> for Server {
    type Error = String;

    fn try_from(fields: ServerFields) -> Result<Server, String> {
        let ServerFields { model, address, name, key_variable, command, start_timeout } = fields;
        let access = match (address, command) {
            (Some(address), None) if start_timeout.is_none() => {
                ServerAccess::Running { address, name }
            }
            (Some(_), None) => {
                return Err("`start_timeout` is for a server with a `command`".into());
            }
            (None, Some(command)) => {
                let has = |word: &str| command.iter().any(|part| part.contains(word));
                if name.is_some() {
                    return Err("`name` is for a server with an `address`".into());
                }
                if !has("{model}") || !has("{port}") {
                    return Err("`command` needs `{model}` and `{port}`".into());
                }
                let timeout = match start_timeout {
                    Some(text) => units::duration(&text)
                        .map_err(|hint| format!("`start_timeout` is not a duration: {hint}"))?,
                    None => START,
                };
                ServerAccess::Start { command, timeout }
            }
            _ => return Err("a server has either an `address` or a `command`".into()),
        };
        Ok(Server { model, access, key_variable })
    }
}

/// An executor: where it computes nodes, and which.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutorConfig {
    /// The kind of executor.
    pub kind: ExecutorKind,
    /// Further words for the command that submits a job, such as `--partition=gpu`.
    #[serde(default)]
    pub options: Vec<String>,
    /// The machines on which `ssh` starts jobs; this one where there are none.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The limit of jobs at once, waiting or running.
    #[serde(default = "jobs")]
    pub jobs: usize,
    /// Threads of a job whose stages declare none.
    #[serde(default = "threads")]
    pub threads: usize,
    /// Memory of a job of which nothing says how much it takes.
    #[serde(default, deserialize_with = "some_size")]
    pub memory: Option<u64>,
    /// Time of a job with a stage that may take any.
    #[serde(default, deserialize_with = "some_duration")]
    pub time: Option<Duration>,
    /// Names of variables that a job gets with their values here, beside `PATH`, `HOME` and those
    /// of the language. The values may be read in the scheduler's files.
    #[serde(default)]
    pub variables: Vec<String>,
    /// The file on the job's machine that holds the values for `${env:NAME}`, `NAME=VALUE` a line,
    /// readable for its owner alone.
    pub environment_file: Option<PathBuf>,
    /// The program on the job's machine; this one where absent.
    pub program: Option<PathBuf>,
    /// Time between two questions for the state of all jobs.
    #[serde(default, deserialize_with = "some_duration")]
    pub poll: Option<Duration>,
    /// Time without a sign of life after which a running job counts as lost.
    #[serde(default = "silence", deserialize_with = "duration")]
    pub silence: Duration,
    /// Stages whose nodes go there without `--executor`.
    #[serde(default)]
    pub stages: Vec<String>,
    /// Kinds whose nodes go there without `--executor`.
    #[serde(default)]
    pub kinds: Vec<String>,
}

/// The kind of an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// The batch scheduler Slurm.
    Slurm,
    /// Programs on this machine, or by `ssh` on others.
    Ssh,
}

impl ExecutorConfig {
    /// An executor of which the configuration says nothing.
    pub fn new(kind: ExecutorKind) -> ExecutorConfig {
        ExecutorConfig {
            kind,
            options: Vec::new(),
            hosts: Vec::new(),
            jobs: jobs(),
            threads: threads(),
            memory: None,
            time: None,
            variables: Vec::new(),
            environment_file: None,
            program: None,
            poll: None,
            silence: silence(),
            stages: Vec::new(),
            kinds: Vec::new(),
        }
    }
}

fn jobs() -> usize {
    64
}

fn threads() -> usize {
    1
}

fn silence() -> Duration {
    Duration::from_secs(120)
}

fn some_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}
