//! Claims: one process at a time computes a key, until it gives the key back, ends, or gives no
//! sign of life for a lease.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use refrain_cache::AppendLog;
use refrain_cache::{Cache, Digest, Holder, Key, Sharing};

fn key(text: &str) -> Key {
    Key::new(Digest::of_bytes(text.as_bytes()))
}

fn open(folder: &Path) -> Cache {
    Cache::open(&folder.join(".refrain")).unwrap()
}

/// A lease that a test can wait for.
fn short(file_locks: bool) -> Sharing {
    Sharing { lease: Duration::from_millis(400), file_locks }
}

fn claims(folder: &Path) -> usize {
    let (lines, torn) = AppendLog::read(&folder.join(".refrain/records/claims.log")).unwrap();
    assert_eq!(torn, 0);
    lines.len()
}

#[test]
fn a_key_has_one_holder_until_it_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (open(folder.path()), open(folder.path()));
    let (x, y) = (key("x"), key("y"));
    assert_eq!(a.holder(&x), None);
    a.claim(&x).unwrap();
    b.claim(&y).unwrap();
    assert_eq!(
        (a.claim(&x), b.claim(&x), a.claim(&y)),
        (Err(Holder::Here), Err(Holder::Elsewhere), Err(Holder::Elsewhere))
    );
    a.release(&x);
    assert_eq!(a.holder(&x), None);
    assert_eq!(b.holder(&x), Some(Holder::Elsewhere), "what is not written yet nobody sees");
    a.flush_claims();
    b.claim(&x).unwrap();
    assert_eq!(a.claim(&x), Err(Holder::Elsewhere));
    drop(b);
    // Whether it lives was asked a moment ago.
    while a.claim(&x) == Err(Holder::Elsewhere) {
        thread::sleep(Duration::from_millis(20));
    }
    // Given back and claimed again with one append.
    a.release(&x);
    a.claim(&x).unwrap();
    assert_eq!(open(folder.path()).claim(&x), Err(Holder::Elsewhere));
}

#[test]
fn of_many_who_claim_at_once_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<Key> = (0..300).map(|i| key(&i.to_string())).collect();
    let caches: Vec<Cache> = (0..8).map(|_| open(folder.path())).collect();
    let taken: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = caches
            .iter()
            .map(|cache| scope.spawn(|| keys.iter().filter(|key| cache.claim(key).is_ok()).count()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(taken.iter().sum::<usize>(), keys.len(), "{taken:?}");
}

/// How many other processes are seen to be at work.
fn others(cache: &Cache) -> usize {
    cache.listing(&cache.records().unwrap()).unwrap().sessions.len()
}

#[test]
fn the_log_is_emptied_by_the_next_process_that_is_alone() {
    let folder = tempfile::tempdir().unwrap();
    let a = open(folder.path());
    a.claim(&key("a")).unwrap();
    let b = open(folder.path());
    b.claim(&key("b")).unwrap();
    assert_eq!(claims(folder.path()), 2);
    assert_eq!((others(&a), others(&b)), (1, 1));
    drop((a, b));
    let c = open(folder.path());
    assert_eq!(others(&c), 0);
    c.claim(&key("c")).unwrap();
    assert_eq!(claims(folder.path()), 1);
}

/// A session as a process on another machine leaves it, whose locks nobody here sees; `beat` is its
/// sign of life.
fn elsewhere(folder: &Path, beat: u64) {
    let session = folder.join(".refrain/tmp/session-elsewhere");
    fs::create_dir_all(&session).unwrap();
    fs::write(session.join("lock"), format!("another-boot {beat}\n")).unwrap();
}

#[test]
fn a_process_on_another_machine_is_waited_for_while_it_gives_signs_of_life() {
    for file_locks in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open_shared(&folder.path().join(".refrain"), short(file_locks)).unwrap();
        elsewhere(folder.path(), 0);
        let log = AppendLog::open(&cache.root().join("records/claims.log")).unwrap();
        log.append(&format!("claim {} session-elsewhere", key("x"))).unwrap();
        for beat in 1..60 {
            assert_eq!(cache.claim(&key("x")), Err(Holder::Elsewhere), "beat {beat}");
            elsewhere(folder.path(), beat);
            thread::sleep(Duration::from_millis(20));
        }
        while cache.claim(&key("x")) == Err(Holder::Elsewhere) {
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(cache.holder(&key("x")), Some(Holder::Here));
    }
}

/// As after a suspension of the machine: that nobody was seen to live is no sign of death when
/// nobody looked.
#[test]
fn time_in_which_nobody_looks_is_no_silence() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::open_shared(&folder.path().join(".refrain"), short(true)).unwrap();
    elsewhere(folder.path(), 0);
    let log = AppendLog::open(&cache.root().join("records/claims.log")).unwrap();
    log.append(&format!("claim {} session-elsewhere", key("x"))).unwrap();
    for _ in 0..3 {
        assert_eq!(cache.claim(&key("x")), Err(Holder::Elsewhere));
        thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_process_that_ended_without_a_word_is_seen_to_be_gone() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path());
    cache.claim(&key("own")).unwrap();
    let tmp = cache.root().join("tmp");
    let own = fs::read_dir(&tmp).unwrap().next().unwrap().unwrap().path();
    // What a killed process of this machine leaves: its boot, and no lock.
    fs::create_dir(tmp.join("session-killed")).unwrap();
    fs::copy(own.join("lock"), tmp.join("session-killed/lock")).unwrap();
    let log = AppendLog::open(&cache.root().join("records/claims.log")).unwrap();
    for session in ["session-killed", "session-removed"] {
        log.append(&format!("claim {} {session}", key("x"))).unwrap();
    }
    assert_eq!(others(&cache), 0);
    cache.claim(&key("x")).unwrap();
}
