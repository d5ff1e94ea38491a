//! Runs a query that a model wrote: it can only read, and stops at limits of steps, rows and memory.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use refrain_engine::kind::Cancel;

/// Default limit of SQLite's instructions: some 30 seconds of the slowest. Steps are counted and not
/// seconds, so that a verdict does not depend on the machine.
pub(in crate::evaluate) const STEPS: u64 = 1_000_000_000;
/// Default limit of the rows of a result.
pub(in crate::evaluate) const ROWS: u64 = 1_000_000;

/// Instructions between two looks at the limits.
const LOOK: i32 = 100;
/// Time after which a query ends that makes much of each step, such as a search for a long text in
/// longer ones.
const TIME: Duration = Duration::from_secs(120);
/// Bytes of the longest value: a search for one in another takes a second at worst, and nothing
/// stops it before its end.
const LENGTH: i32 = 256 << 10;
/// Bytes that SQLite may hold. The limit is the process's, so that queries run one at a time.
const MEMORY: u64 = 256 << 20;
/// Functions that reach outside the database, or whose value is chance.
const DENIED: [&str; 5] =
    ["load_extension", "fts3_tokenizer", "sqlite_log", "random", "randomblob"];

static MEMORY_IN_USE: Mutex<()> = Mutex::new(());

/// The limits of a query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub steps: u64,
    pub rows: u64,
}

/// The result of a query: a digest of each row, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome(Vec<[u8; 32]>);

impl Outcome {
    /// Whether two results hold the same rows in any order, each as often or, as sets, at all.
    pub fn equals(&self, other: &Outcome, as_set: bool) -> bool {
        let distinct = |outcome: &Outcome| {
            let mut rows = outcome.0.clone();
            rows.dedup();
            rows
        };
        if as_set { distinct(self) == distinct(other) } else { self == other }
    }
}

/// Why a query has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no statement.
    Nothing,
    Syntax(String),
    /// It does more than read, or there are several statements.
    Denied(String),
    Steps,
    Rows,
    Memory,
    /// Anything else, such as a name that is not there.
    Failed(String),
    /// The file is not a database.
    Database(String),
    /// A stop was asked for.
    Stopped,
}

impl Fault {
    /// The reason of a verdict.
    pub fn reason(&self) -> &'static str {
        match self {
            Fault::Nothing => "no query",
            Fault::Syntax(_) => "syntax error",
            Fault::Denied(_) => "not allowed",
            Fault::Steps => "time-out",
            Fault::Rows => "too many rows",
            Fault::Memory => "out of memory",
            Fault::Failed(_) | Fault::Database(_) | Fault::Stopped => "query failed",
        }
    }

    /// The reason with SQLite's own words.
    pub fn message(&self) -> String {
        match self {
            Fault::Syntax(why) | Fault::Denied(why) | Fault::Failed(why) | Fault::Database(why) => {
                format!("{}: {why}", self.reason())
            }
            _ => self.reason().to_owned(),
        }
    }
}

/// Names what computed the results.
pub(in crate::evaluate) fn profile() -> String {
    format!("sqlite {}", rusqlite::version())
}

/// Runs one query on the database in a file.
pub(super) fn run(
    database: &Path,
    query: &str,
    limits: Limits,
    cancel: &Cancel,
) -> Result<Outcome, Fault> {
    let _alone = MEMORY_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
    let connection = open(database, limits, cancel)
        .map_err(|error| Fault::Database(format!("`{}`: {error}", database.display())))?;
    let fault = |error| fault_of(error, cancel);
    let mut statement = connection.prepare(query).map_err(fault)?;
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(fault)?;
    let mut digests = Vec::new();
    while let Some(row) = rows.next().map_err(fault)? {
        if digests.len() as u64 == limits.rows {
            return Err(Fault::Rows);
        }
        let mut hasher = blake3::Hasher::new();
        for at in 0..columns {
            hash_value(&mut hasher, row.get_ref(at).map_err(fault)?);
        }
        digests.push(*hasher.finalize().as_bytes());
    }
    digests.sort_unstable();
    Ok(Outcome(digests))
}

/// Opens a database that nothing can change, with the limits set.
fn open(database: &Path, limits: Limits, cancel: &Cancel) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(immutable(database), flags)?;
    connection.execute_batch(&format!(
        "PRAGMA hard_heap_limit={MEMORY}; PRAGMA temp_store=MEMORY; PRAGMA mmap_size=0;
         PRAGMA query_only=ON; PRAGMA cell_size_check=ON;"
    ))?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, LENGTH),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, LENGTH),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 100),
        (Limit::SQLITE_LIMIT_VDBE_OP, 1_000_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    connection.authorizer(Some(authorize))?;
    let (cancel, mut left) = (cancel.clone(), limits.steps / LOOK as u64);
    let begin = Instant::now();
    connection.progress_handler(
        LOOK,
        Some(move || {
            left = left.saturating_sub(1);
            left == 0 || begin.elapsed() > TIME || cancel.is_cancelled()
        }),
    )?;
    Ok(connection)
}

/// The address of a file that SQLite takes for unchangeable, so that it makes no files beside it.
fn immutable(database: &Path) -> String {
    let mut address = String::from("file:");
    for &byte in database.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                address.push(char::from(byte));
            }
            _ => address.push_str(&format!("%{byte:02X}")),
        }
    }
    address + "?immutable=1"
}

fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Function { function_name }
            if !DENIED.iter().any(|denied| function_name.eq_ignore_ascii_case(denied)) =>
        {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

fn fault_of(error: rusqlite::Error, cancel: &Cancel) -> Fault {
    let (code, why) = match &error {
        rusqlite::Error::SqlInputError { error, msg, .. } => (Some(error.code), msg.clone()),
        rusqlite::Error::SqliteFailure(failure, why) => {
            (Some(failure.code), why.clone().unwrap_or_else(|| error.to_string()))
        }
        rusqlite::Error::Empty => return Fault::Nothing,
        rusqlite::Error::MultipleStatement => {
            return Fault::Denied("there are several statements".into());
        }
        other => (None, other.to_string()),
    };
    let is_syntax = ["syntax error", "incomplete input", "unrecognized token"];
    match code {
        Some(ErrorCode::AuthorizationForStatementDenied) => Fault::Denied(why),
        Some(ErrorCode::OperationInterrupted) if cancel.is_cancelled() => Fault::Stopped,
        Some(ErrorCode::OperationInterrupted) => Fault::Steps,
        Some(ErrorCode::OutOfMemory | ErrorCode::TooBig) => Fault::Memory,
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::CannotOpen) => {
            Fault::Database(why)
        }
        // A function that is refused is an error without a code of its own.
        _ if why.starts_with("not authorized") => Fault::Denied(why),
        _ if is_syntax.iter().any(|words| why.contains(words)) => Fault::Syntax(why),
        _ => Fault::Failed(why),
    }
}

/// Hashes a value; a whole number equals a float of the same value.
fn hash_value(hasher: &mut blake3::Hasher, value: ValueRef<'_>) {
    let mut put = |tag: u8, bytes: &[u8]| {
        hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    match value {
        ValueRef::Null => put(0, &[]),
        ValueRef::Integer(whole) => put(1, &whole.to_le_bytes()),
        ValueRef::Real(real) => {
            let whole = real as i64;
            // The largest float below 2^63 is a whole number; 2^63 itself is cut to less.
            if whole as f64 == real && whole != i64::MAX {
                put(1, &whole.to_le_bytes());
            } else {
                put(2, &real.to_bits().to_le_bytes());
            }
        }
        ValueRef::Text(text) => put(3, text),
        ValueRef::Blob(blob) => put(4, blob),
    }
}
