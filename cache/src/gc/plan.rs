//! Plans a garbage collection from a listing alone.
//!
//! Results that a lock names are never removed, nor anything that their records name. Everything
//! else is removed by its last use, which is that of the newest run whose log names its key, or
//! else the time when it was stored:
//!
//! - without limits, results that no logged run has used;
//! - with [`Limits::older_than`], those last used longer ago;
//! - with [`Limits::max_size`], the longest unused first, until the cache is no larger;
//! - with both limits, those that either selects.
//!
//! A record and its objects are removed together: an object is kept as long as one kept record
//! names it. While another process is at work, all artifacts, records and memos are kept, because
//! nothing tells which of them it has found.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::listing::{Entry, Listing, Recorded};
use crate::digest::Digest;
use crate::manifest::Key;

/// The results that must be kept, and the last use of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Roots {
    /// Keys named in locks.
    pub keys: HashSet<Key>,
    /// Objects named in locks.
    pub objects: HashSet<Digest>,
    /// Keys that logged runs used, with the last use of each.
    pub used: HashMap<Key, SystemTime>,
    /// Saved plans of workflows that exist.
    pub plans: HashSet<String>,
    /// Begin of the oldest logged run.
    pub oldest_run: Option<SystemTime>,
}

/// Limits on results that no lock names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Removes results not used for this long, and no others.
    pub older_than: Option<Duration>,
    /// Bytes that the cache may hold: artifacts, row memos, and work of interrupted nodes.
    pub max_size: Option<u64>,
}

/// A garbage collection: its removals, and the reasons why the rest is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RemovalPlan {
    /// The removals.
    pub removals: Vec<Removal>,
    /// Objects, row memos and unfinished nodes that are kept, by the reason.
    pub kept: Vec<(KeepReason, Amount)>,
    /// The processes at work, for whose sake the rest is kept.
    pub sessions: Vec<String>,
}

/// One removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The thing to remove.
    pub target: RemovalTarget,
    /// The bytes that it takes in the cache; 0 for a record.
    pub bytes: u64,
    /// Its last use.
    pub used: SystemTime,
}

/// A thing that can be removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemovalTarget {
    /// The record of a key.
    Record(Key),
    /// An object.
    Object(Digest),
    /// A file of the row memo.
    Rows(String),
    /// The work of an interrupted node.
    Unfinished(String),
    /// The saved plan of a workflow that no longer exists.
    Plan(String),
    /// A leftover of an ended process in `tmp/`.
    Leftover(String),
    /// A damaged file that was set aside.
    Corrupt(String),
}

/// The reason why something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// A lock names it, or something that a lock names belongs to it.
    Locked,
    /// A logged run has used it.
    Used,
    /// It is within the limits.
    Within,
    /// Another process is at work, and may have found it.
    AtWork,
}

/// A number of things and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// The number.
    pub count: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// Plans a collection, as a function of its arguments alone.
pub fn plan_removal(
    listing: &Listing,
    roots: &Roots,
    limits: &Limits,
    now: SystemTime,
) -> RemovalPlan {
    let mut plan = RemovalPlan { sessions: listing.sessions.clone(), ..RemovalPlan::default() };
    plan.remove_all(&listing.leftovers, RemovalTarget::Leftover);
    plan.remove_all(&listing.corrupt, RemovalTarget::Corrupt);
    let mut units = units(listing, roots);
    if listing.sessions.is_empty() {
        let gone: Vec<Entry> =
            listing.plans.iter().filter(|p| !roots.plans.contains(&p.name)).cloned().collect();
        plan.remove_all(&gone, RemovalTarget::Plan);
        choose(&mut units, listing, limits, now);
    }
    plan.sort(&units, listing, limits);
    plan
}

impl RemovalPlan {
    /// Returns the bytes that the removals free.
    pub fn bytes(&self) -> u64 {
        self.removals.iter().map(|removal| removal.bytes).sum()
    }

    fn remove_all(&mut self, entries: &[Entry], target: fn(String) -> RemovalTarget) {
        self.removals.extend(entries.iter().map(|entry| Removal {
            target: target(entry.name.clone()),
            bytes: entry.bytes,
            used: entry.modified,
        }));
    }

    /// Enters every unit and object into the plan.
    fn sort(&mut self, units: &[Unit], listing: &Listing, limits: &Limits) {
        let mut reasons: HashMap<Digest, KeepReason> = HashMap::new();
        let mut stays: BTreeMap<KeepReason, Amount> = BTreeMap::new();
        let mut last_use: HashMap<Digest, SystemTime> = HashMap::new();
        for unit in units {
            let reason = unit.reason(listing, limits);
            for object in &unit.objects {
                let used = last_use.entry(*object).or_insert(unit.used);
                *used = (*used).max(unit.used);
                if !unit.goes {
                    let found = reasons.entry(*object).or_insert(reason);
                    *found = (*found).min(reason);
                }
            }
            match (&unit.target, unit.goes) {
                (None, _) => {}
                (Some(target), true) => {
                    self.removals.push(Removal {
                        target: target.clone(),
                        bytes: unit.bytes,
                        used: unit.used,
                    });
                }
                (Some(RemovalTarget::Record(_)), false) => {}
                (Some(_), false) => stays.entry(reason).or_default().add(unit.bytes),
            }
        }
        for object in &listing.objects {
            match reasons.get(&object.digest) {
                Some(reason) => stays.entry(*reason).or_default().add(object.bytes),
                None => self.removals.push(Removal {
                    target: RemovalTarget::Object(object.digest),
                    bytes: object.bytes,
                    used: last_use.get(&object.digest).copied().unwrap_or(object.stored),
                }),
            }
        }
        self.kept = stays.into_iter().collect();
    }
}

impl Amount {
    /// Counts one more.
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// A record with its objects, a file, or a lone object: removed or kept together.
struct Unit {
    /// The thing to remove beside objects; a lock's line and an object without a record have none.
    target: Option<RemovalTarget>,
    objects: Vec<Digest>,
    /// Its own bytes, without the objects'.
    bytes: u64,
    used: SystemTime,
    kept: Retention,
    goes: bool,
}

/// Whether limits apply to a unit.
#[derive(Clone, Copy, PartialEq)]
enum Retention {
    /// Kept whatever the limits are.
    Always,
    /// Kept without limits.
    Used,
    /// Removed without limits.
    Unused,
    /// Removed whatever the limits are.
    Never,
}

impl Unit {
    fn reason(&self, listing: &Listing, limits: &Limits) -> KeepReason {
        match self.kept {
            Retention::Always => KeepReason::Locked,
            _ if !listing.sessions.is_empty() => KeepReason::AtWork,
            _ if *limits == Limits::default() => KeepReason::Used,
            _ => KeepReason::Within,
        }
    }
}

fn units(listing: &Listing, roots: &Roots) -> Vec<Unit> {
    let stored: HashMap<Digest, SystemTime> =
        listing.objects.iter().map(|object| (object.digest, object.stored)).collect();
    let mut named: HashSet<Digest> = roots.objects.clone();
    let mut units = vec![Unit {
        target: None,
        objects: roots.objects.iter().copied().collect(),
        bytes: 0,
        used: UNIX_EPOCH,
        kept: Retention::Always,
        goes: false,
    }];
    for recorded in &listing.records {
        named.extend(recorded.objects());
        units.push(record(recorded, roots, &stored));
    }
    let orphans = listing.objects.iter().filter(|object| !named.contains(&object.digest));
    units.extend(orphans.map(|object| Unit {
        target: None,
        objects: vec![object.digest],
        bytes: 0,
        used: object.stored,
        kept: Retention::Unused,
        goes: false,
    }));
    let keys: HashSet<String> =
        listing.records.iter().map(|recorded| recorded.key.to_string()).collect();
    for entry in &listing.rows {
        let fresh = roots.oldest_run.is_none_or(|oldest| entry.modified >= oldest);
        let kept = if fresh { Retention::Used } else { Retention::Unused };
        units.push(file(entry, RemovalTarget::Rows, kept));
    }
    for entry in &listing.unfinished {
        // A node that has a record is done; any other continues from there in its next run.
        let kept = if keys.contains(&entry.name) { Retention::Never } else { Retention::Used };
        units.push(file(entry, RemovalTarget::Unfinished, kept));
    }
    units
}

fn record(recorded: &Recorded, roots: &Roots, stored: &HashMap<Digest, SystemTime>) -> Unit {
    let used = roots.used.get(&recorded.key).copied();
    let made = recorded.outputs.iter().filter_map(|(digest, _)| stored.get(digest)).max();
    let kept = match used {
        _ if roots.keys.contains(&recorded.key) => Retention::Always,
        Some(_) => Retention::Used,
        None => Retention::Unused,
    };
    Unit {
        target: Some(RemovalTarget::Record(recorded.key)),
        objects: recorded.objects().collect(),
        bytes: 0,
        used: used.or(made.copied()).unwrap_or(UNIX_EPOCH),
        kept,
        goes: false,
    }
}

fn file(entry: &Entry, target: fn(String) -> RemovalTarget, kept: Retention) -> Unit {
    Unit {
        target: Some(target(entry.name.clone())),
        objects: Vec::new(),
        bytes: entry.bytes,
        used: entry.modified,
        kept,
        goes: false,
    }
}

/// Marks the units to remove.
fn choose(units: &mut [Unit], listing: &Listing, limits: &Limits, now: SystemTime) {
    let old = |unit: &Unit, age| now.duration_since(unit.used).is_ok_and(|unused| unused > age);
    for unit in units.iter_mut() {
        unit.goes = match (unit.kept, limits.older_than, limits.max_size) {
            (Retention::Always, ..) => false,
            (Retention::Never, ..) => true,
            (_, Some(age), _) => old(unit, age),
            (kept, None, None) => kept == Retention::Unused,
            (_, None, Some(_)) => false,
        };
    }
    if let Some(most) = limits.max_size {
        shrink(units, listing, most);
    }
}

/// Marks units, the longest unused first, until the others take `most` bytes or fewer.
fn shrink(units: &mut [Unit], listing: &Listing, most: u64) {
    let sizes: HashMap<Digest, u64> = listing.objects.iter().map(|o| (o.digest, o.bytes)).collect();
    let mut needed: HashMap<Digest, usize> = HashMap::new();
    let mut total = 0;
    for unit in units.iter().filter(|unit| !unit.goes) {
        total += unit.bytes;
        for object in unit.objects.iter().collect::<BTreeSet<_>>() {
            let by = needed.entry(*object).or_default();
            total += if *by == 0 { sizes.get(object).copied().unwrap_or(0) } else { 0 };
            *by += 1;
        }
    }
    let mut candidates: Vec<&mut Unit> =
        units.iter_mut().filter(|unit| !unit.goes && unit.kept != Retention::Always).collect();
    candidates
        .sort_by(|a, b| (a.used, &a.target, &a.objects).cmp(&(b.used, &b.target, &b.objects)));
    for unit in candidates {
        if total <= most {
            return;
        }
        unit.goes = true;
        total -= unit.bytes;
        for object in unit.objects.iter().collect::<BTreeSet<_>>() {
            let by = needed.get_mut(object).expect("every object of a unit was counted");
            *by -= 1;
            total -= if *by == 0 { sizes.get(object).copied().unwrap_or(0) } else { 0 };
        }
    }
}
