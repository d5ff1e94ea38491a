//! Garbage collection: what a plan may name, and what is left when it was carried out.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::sample::Index;
use refrain_cache::gc::{KeepReason, Limits, RemovalPlan, RemovalTarget, Roots, plan_removal};
use refrain_cache::{
    Artifact, ArtifactKind, Cache, Digest, Entry, FileIdentity, Key, Listing, Manifest, NodeResult,
    Object, Record, Recorded,
};
use serde_json::json;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn digest(number: usize) -> Digest {
    Digest::of_bytes(&number.to_le_bytes())
}

fn key(number: usize) -> Key {
    Manifest::new("score").section("parameters", json!({ "number": number })).key()
}

fn entry(name: String, bytes: u64, seconds: u64) -> Entry {
    Entry { name, bytes, modified: at(seconds) }
}

/// A cache of some objects, records over them, memos and plans; and some roots.
fn world() -> impl Strategy<Value = (Listing, Roots)> {
    let objects = prop::collection::vec((0..100_u64, 0..1000_u64), 0..12);
    let records =
        prop::collection::vec((prop::collection::vec(any::<Index>(), 0..3), any::<Index>()), 0..12);
    let roots = prop::collection::vec(any::<(bool, bool, u16)>(), 24);
    let files = prop::collection::vec((0..100_u64, 0..1000_u64), 6);
    (objects, records, roots, files, 0..1000_u64).prop_map(
        |(objects, records, flags, files, oldest)| {
            let mut listing = Listing::default();
            for (number, (bytes, stored)) in objects.iter().enumerate() {
                let object = Object {
                    digest: digest(number),
                    folder: false,
                    bytes: *bytes,
                    stored: at(*stored),
                };
                listing.objects.push(object);
            }
            // One more than there are, so that a record may name what is not there.
            let pick = |index: &Index| digest(index.index(objects.len() + 1));
            let mut roots = Roots { oldest_run: Some(at(oldest)), ..Roots::default() };
            for (number, (outputs, base)) in records.iter().enumerate() {
                let outputs =
                    outputs.iter().map(|index| (pick(index), ArtifactKind::Table)).collect();
                let bases = if number % 3 == 0 { vec![pick(base)] } else { Vec::new() };
                listing.records.push(Recorded { key: key(number), outputs, bases });
                let (locked, used, time) = flags[number];
                if locked && time % 2 == 0 {
                    roots.keys.insert(key(number));
                }
                if used {
                    roots.used.insert(key(number), at(u64::from(time) % 1000));
                }
            }
            for (number, (locked, _, time)) in flags[12..].iter().enumerate() {
                if *locked && time % 4 == 0 {
                    roots.objects.insert(digest(number));
                }
            }
            listing.rows =
                (0..3).map(|i| entry(format!("{i}.rows"), files[i].0, files[i].1)).collect();
            listing.unfinished =
                (3..6).map(|i| entry(key(i).to_string(), files[i].0, files[i].1)).collect();
            listing.plans = vec![entry("kept".into(), 1, 0), entry("gone".into(), 1, 0)];
            roots.plans.insert("kept".into());
            listing.corrupt = vec![entry("bad".into(), 7, 0)];
            (listing, roots)
        },
    )
}

fn limits() -> impl Strategy<Value = Limits> {
    (prop::option::of(0..1000_u64), prop::option::of(0..800_u64))
        .prop_map(|(age, max_size)| Limits { older_than: age.map(Duration::from_secs), max_size })
}

fn gone(plan: &RemovalPlan) -> BTreeSet<RemovalTarget> {
    plan.removals.iter().map(|removal| removal.target.clone()).collect()
}

/// What is left of a listing.
fn after(listing: &Listing, gone: &BTreeSet<RemovalTarget>) -> Listing {
    let mut left = listing.clone();
    left.objects.retain(|object| !gone.contains(&RemovalTarget::Object(object.digest)));
    left.records.retain(|recorded| !gone.contains(&RemovalTarget::Record(recorded.key)));
    left.rows.retain(|entry| !gone.contains(&RemovalTarget::Rows(entry.name.clone())));
    left.unfinished.retain(|entry| !gone.contains(&RemovalTarget::Unfinished(entry.name.clone())));
    left.plans.retain(|entry| !gone.contains(&RemovalTarget::Plan(entry.name.clone())));
    left.corrupt.retain(|entry| !gone.contains(&RemovalTarget::Corrupt(entry.name.clone())));
    left
}

fn size(listing: &Listing) -> u64 {
    let files = listing.rows.iter().chain(&listing.unfinished).map(|entry| entry.bytes);
    listing.objects.iter().map(|object| object.bytes).chain(files).sum()
}

fn named(listing: &Listing) -> HashSet<Digest> {
    listing.records.iter().flat_map(|recorded| recorded.objects().collect::<Vec<_>>()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_lock_reaches_stays_and_no_record_loses_its_object((listing, roots) in world(), limits in limits()) {
        let gone = gone(&plan_removal(&listing, &roots, &limits, at(1000)));
        for recorded in &listing.records {
            if roots.keys.contains(&recorded.key) {
                prop_assert!(!gone.contains(&RemovalTarget::Record(recorded.key)));
            }
        }
        let left = after(&listing, &gone);
        let kept = named(&left);
        for object in &listing.objects {
            let needed = kept.contains(&object.digest) || roots.objects.contains(&object.digest);
            prop_assert!(!(needed && gone.contains(&RemovalTarget::Object(object.digest))));
        }
    }

    #[test]
    fn without_limits_exactly_what_no_lock_and_no_run_names_goes((listing, roots) in world()) {
        let gone = gone(&plan_removal(&listing, &roots, &Limits::default(), at(1000)));
        for recorded in &listing.records {
            let wanted = roots.keys.contains(&recorded.key) || roots.used.contains_key(&recorded.key);
            prop_assert_eq!(!wanted, gone.contains(&RemovalTarget::Record(recorded.key)));
        }
        let left = after(&listing, &gone);
        let kept = named(&left);
        for object in &left.objects {
            prop_assert!(kept.contains(&object.digest) || roots.objects.contains(&object.digest));
        }
        let keys: HashSet<String> = listing.records.iter().map(|r| r.key.to_string()).collect();
        for entry in &listing.unfinished {
            prop_assert_eq!(keys.contains(&entry.name), gone.contains(&RemovalTarget::Unfinished(entry.name.clone())));
        }
        for entry in &listing.rows {
            let old = roots.oldest_run.is_some_and(|oldest| entry.modified < oldest);
            prop_assert_eq!(old, gone.contains(&RemovalTarget::Rows(entry.name.clone())));
        }
        prop_assert!(gone.contains(&RemovalTarget::Plan("gone".into())) && !gone.contains(&RemovalTarget::Plan("kept".into())));
        prop_assert!(gone.contains(&RemovalTarget::Corrupt("bad".into())));
        let again = plan_removal(&left, &roots, &Limits::default(), at(1000));
        prop_assert_eq!(again.removals, vec![]);
    }

    #[test]
    fn what_was_used_within_the_age_stays((listing, roots) in world(), age in 0..1000_u64) {
        let limits = Limits { older_than: Some(Duration::from_secs(age)), max_size: None };
        let gone = gone(&plan_removal(&listing, &roots, &limits, at(1000)));
        for (key, used) in &roots.used {
            if at(1000).duration_since(*used).unwrap() <= Duration::from_secs(age) {
                prop_assert!(!gone.contains(&RemovalTarget::Record(*key)));
            }
        }
        let named = named(&listing);
        for object in listing.objects.iter().filter(|object| !named.contains(&object.digest)) {
            let young = at(1000).duration_since(object.stored).unwrap() <= Duration::from_secs(age);
            let stays = young || roots.objects.contains(&object.digest);
            prop_assert_eq!(!stays, gone.contains(&RemovalTarget::Object(object.digest)));
        }
    }

    #[test]
    fn the_size_is_kept_unless_locks_need_more((listing, roots) in world(), most in 0..800_u64) {
        let limits = Limits { older_than: None, max_size: Some(most) };
        let made = plan_removal(&listing, &roots, &limits, at(1000));
        let left = after(&listing, &gone(&made));
        if size(&left) > most {
            let locked = |recorded: &Recorded| roots.keys.contains(&recorded.key);
            prop_assert!(left.records.iter().all(locked) && left.rows.is_empty() && left.unfinished.is_empty());
            let needed = named(&left);
            prop_assert!(left.objects.iter().all(|o| needed.contains(&o.digest) || roots.objects.contains(&o.digest)));
        }
        let stays: u64 = made.kept.iter().map(|(_, amount)| amount.bytes).sum();
        prop_assert_eq!(stays, size(&left));
        // The longest unused go first.
        let use_of = |key: &Key| roots.used.get(key);
        let last_gone = listing.records.iter().filter(|r| !left.records.contains(r)).filter_map(|r| use_of(&r.key)).max();
        let first_left = left.records.iter().filter(|r| !roots.keys.contains(&r.key)).filter_map(|r| use_of(&r.key)).min();
        if let (Some(gone), Some(left)) = (last_gone, first_left) {
            prop_assert!(gone <= left);
        }
    }

    #[test]
    fn while_another_process_is_at_work_only_leftovers_go((mut listing, roots) in world(), limits in limits()) {
        listing.sessions = vec!["session-1".into()];
        listing.leftovers = vec![entry("session-2".into(), 5, 0)];
        let made = plan_removal(&listing, &roots, &limits, at(1000));
        prop_assert_eq!(gone(&made), BTreeSet::from([RemovalTarget::Leftover("session-2".into()), RemovalTarget::Corrupt("bad".into())]));
        prop_assert!(made.kept.iter().all(|(why, _)| matches!(why, KeepReason::AtWork | KeepReason::Locked)));
    }
}

fn store(cache: &Cache, bytes: &[u8]) -> Artifact {
    let scratch = cache.scratch_dir().unwrap();
    fs::write(scratch.path().join("out"), bytes).unwrap();
    cache.store_file(&scratch.path().join("out")).unwrap()
}

fn record(cache: &Cache, name: &str) -> Record {
    let manifest = Manifest::new("run").section("parameters", json!({ "name": name }));
    Record {
        key: manifest.key(),
        kind: "run".into(),
        result: NodeResult {
            artifacts: [("out".to_string(), store(cache, name.as_bytes()))].into(),
            ..NodeResult::default()
        },
        seconds: 1.0,
        manifest,
        version: "0.1.0".into(),
    }
}

/// A cache with three records, of which the first is a root.
fn three(folder: &Path) -> ([Record; 3], Roots) {
    let cache = Cache::open(folder).unwrap();
    let records = cache.records().unwrap();
    let made = ["a", "b", "c"].map(|name| record(&cache, name));
    for record in &made {
        records.put(record).unwrap();
    }
    let roots = Roots { keys: HashSet::from([made[0].key]), ..Roots::default() };
    (made, roots)
}

fn collect(cache: &Cache, roots: &Roots) -> RemovalPlan {
    let gate = cache.lock_for_removal().unwrap();
    let records = cache.records().unwrap();
    let made = plan_removal(
        &cache.listing(&records).unwrap(),
        roots,
        &Limits::default(),
        SystemTime::now(),
    );
    cache.remove(&made, records, gate).unwrap();
    made
}

#[test]
fn what_goes_leaves_no_record_and_no_object_and_the_logs_are_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let ([kept, b, c], roots) = three(folder.path());
    fs::write(folder.path().join("rows/1.rows"), b"memo").unwrap();
    fs::create_dir_all(folder.path().join(format!("unfinished/{}", kept.key))).unwrap();
    fs::write(folder.path().join(format!("unfinished/{}/state", kept.key)), b"half").unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    collect(&cache, &roots);
    let records = cache.records().unwrap();
    assert_eq!(records.keys(), [kept.key]);
    assert_eq!(records.get(&kept.key).unwrap(), Some(kept.clone()));
    cache.verify(kept.result.artifacts.get("out").unwrap()).unwrap();
    for gone in [b, c] {
        assert!(!cache.object_path(&gone.result.artifacts.get("out").unwrap().digest).exists());
    }
    // Two of three records went and left two lines more: one line of five counts.
    let log = fs::read_to_string(folder.path().join("records/records.log")).unwrap();
    assert_eq!(log.lines().count(), 1);
    assert!(folder.path().join("rows/1.rows").exists(), "no run is known whose memo it is not");
    assert!(!folder.path().join(format!("unfinished/{}", kept.key)).exists());
    assert_eq!(collect(&cache, &roots).removals, []);
}

#[test]
fn what_another_process_may_have_found_stays_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (made, roots) = three(folder.path());
    let other = Cache::open(folder.path()).unwrap();
    other.begin_write().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    assert_eq!(collect(&cache, &roots).sessions.len(), 1);
    assert_eq!(cache.records().unwrap().keys().len(), 3);
    made.iter()
        .for_each(|record| cache.verify(record.result.artifacts.get("out").unwrap()).unwrap());
    drop(other);
    assert_eq!(collect(&cache, &roots).sessions.len(), 0);
    assert_eq!(cache.records().unwrap().keys().len(), 1);
}

#[test]
fn a_process_begins_to_write_only_when_a_collection_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let gate = cache.lock_for_removal().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let path = folder.path().to_path_buf();
    let other = std::thread::spawn(move || {
        let other = Cache::open(&path).unwrap();
        other.begin_write().unwrap();
        tell.send(()).unwrap();
    });
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
    drop(gate);
    told.recv().unwrap();
    other.join().unwrap();
}

#[test]
fn what_a_killed_process_left_in_tmp_goes() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    let dead = folder.path().join("tmp/session-dead");
    fs::create_dir(&dead).unwrap();
    let Ok(boot) = fs::read_to_string("/proc/sys/kernel/random/boot_id") else {
        return eprintln!(
            "skipped: this machine does not tell its boot, so a death is not seen at once"
        );
    };
    fs::write(dead.join("lock"), format!("{} 0\n", boot.trim())).unwrap();
    // One of another machine may live.
    let elsewhere = folder.path().join("tmp/session-elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("lock"), b"another 0\n").unwrap();
    fs::write(dead.join("half"), b"half an artifact").unwrap();
    let made = collect(&cache, &Roots::default());
    assert_eq!(gone(&made), BTreeSet::from([RemovalTarget::Leftover("session-dead".into())]));
    assert!(!dead.exists() && elsewhere.exists());
}

/// The machine went down while a run was under way, and is up again.
#[test]
fn a_session_of_an_earlier_start_of_this_machine_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(folder.path()).unwrap();
    cache.begin_write().unwrap();
    let own = fs::read_dir(folder.path().join("tmp")).unwrap().next().unwrap().unwrap();
    let content = fs::read_to_string(own.path().join("lock")).unwrap();
    let [_, count, machine] = content.trim().split(' ').collect::<Vec<_>>()[..] else {
        return eprintln!("skipped: this machine has no id");
    };
    for (name, boot, machine) in
        [("earlier", "another-boot", machine), ("elsewhere", "another-boot", "another-machine")]
    {
        let session = folder.path().join(format!("tmp/session-{name}"));
        fs::create_dir(&session).unwrap();
        fs::write(session.join("lock"), format!("{boot} {count} {machine}\n")).unwrap();
    }
    let listing = cache.listing(&cache.records().unwrap()).unwrap();
    let leftovers: Vec<&str> = listing.leftovers.iter().map(|entry| &*entry.name).collect();
    assert_eq!(
        (leftovers, listing.sessions),
        (vec!["session-earlier"], vec!["session-elsewhere".to_owned()])
    );
}

#[test]
fn remembered_digests_of_files_that_are_gone_are_dropped_when_they_are_half() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open(&folder.path().join(".refrain")).unwrap();
    let known = cache.file_digests().unwrap();
    let files: HashMap<&str, _> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            let identity = FileIdentity::of(&path.metadata().unwrap());
            known.adopt(&path, identity, Digest::of_bytes(name.as_bytes()));
            (name, path)
        })
        .collect();
    known.save().unwrap();
    let lines =
        || fs::read_to_string(cache.root().join("records/files.log")).unwrap().lines().count();
    fs::remove_file(&files["a"]).unwrap();
    collect(&cache, &Roots::default());
    assert_eq!(lines(), 4);
    fs::write(&files["b"], "changed").unwrap();
    collect(&cache, &Roots::default());
    assert_eq!(lines(), 2);
    let known = cache.file_digests().unwrap();
    assert!(known.remembered(&files["c"]).is_some() && known.remembered(&files["b"]).is_none());
}
