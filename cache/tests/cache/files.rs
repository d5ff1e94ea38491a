//! Whole files that appear at once, and logs that survive what interrupts them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::thread;
use std::time::{Duration, SystemTime};

use refrain_cache::AppendLog;
#[cfg(feature = "faults")]
use refrain_cache::write::faults::Fault;
use refrain_cache::write::{AtomicFile, copy_file, write_atomic};

fn names(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_appears_when_it_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    fs::write(&target, "old").unwrap();
    let mut file = AtomicFile::beside(&target).unwrap();
    file.write_all(&vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"old");
    file.commit().unwrap();
    assert_eq!(fs::read(&target).unwrap(), vec![b'x'; 1 << 20]);
    assert_eq!(names(folder.path()), ["target"]);
}

#[test]
fn a_file_that_is_dropped_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = AtomicFile::beside(&folder.path().join("target")).unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    drop(file);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn what_a_killed_process_left_is_removed_a_day_later() {
    let folder = tempfile::tempdir().unwrap();
    let days_old = |name: &str, days: u64| {
        let file = fs::File::create(folder.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400 + 60)).unwrap();
    };
    days_old(".refrain-aB3dE6.tmp", 1);
    days_old(".refrain-young1.tmp", 0);
    days_old(".refrain-notes", 1);
    fs::create_dir(folder.path().join(".refrain")).unwrap();
    write_atomic(&folder.path().join("target"), b"one").unwrap();
    assert_eq!(
        names(folder.path()),
        [".refrain", ".refrain-notes", ".refrain-young1.tmp", "target"]
    );
}

#[test]
fn equal_content_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("target");
    assert!(write_atomic(&target, b"one").unwrap());
    let inode = fs::metadata(&target).unwrap().ino();
    assert!(!write_atomic(&target, b"one").unwrap());
    assert_eq!(fs::metadata(&target).unwrap().ino(), inode);
    assert!(write_atomic(&target, b"two").unwrap());
    assert_eq!(fs::read(&target).unwrap(), b"two");
    let ordinary = folder.path().join("ordinary");
    fs::write(&ordinary, "").unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&target), mode(&ordinary), "the umask decides, as for any file");
    assert!(write_atomic(&folder.path().join("missing/target"), b"one").is_err());
}

#[test]
fn a_copy_is_writable_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    fs::write(&from, "bytes").unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(copy_file(&from, &to).unwrap(), 5);
    assert_eq!(fs::read(&to).unwrap(), b"bytes");
    assert!(!fs::metadata(&to).unwrap().permissions().readonly());
}

#[test]
fn a_log_gives_back_what_was_appended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    assert_eq!(AppendLog::read(&path).unwrap(), (vec![], 0));
    let log = AppendLog::open(&path).unwrap();
    log.append("one").unwrap();
    log.append_all(&["", "zwei é"]).unwrap();
    assert_eq!(AppendLog::read(&path).unwrap().0, ["one", "", "zwei é"]);
    let line = fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(line, format!("{} one", &blake3::hash(b"one").to_hex()[..16]));
    assert!(log.append("line\nfeed").is_err());
    let all = log.read_from(0).unwrap();
    let tail = log.read_from(all.lines[1].offset).unwrap();
    assert_eq!(tail.lines, all.lines[1..]);
    assert_eq!(log.read_from(all.end).unwrap().lines, []);
}

#[test]
fn every_torn_tail_loses_its_own_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = AppendLog::open(&path).unwrap();
    log.append("first").unwrap();
    let kept = fs::metadata(&path).unwrap().len() as usize;
    log.append("second").unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in kept..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let (lines, torn) = AppendLog::read(&path).unwrap();
        assert_eq!(
            (lines, torn),
            (vec!["first".to_owned()], usize::from(cut > kept)),
            "cut at {cut}"
        );
        AppendLog::open(&path).unwrap().append("third").unwrap();
        let (lines, torn) = AppendLog::read(&path).unwrap();
        // Where only the line feed was lost the line itself is sound, and is taken up again.
        let expected = if cut + 1 == whole.len() {
            vec!["first", "second", "third"]
        } else {
            vec!["first", "third"]
        };
        assert_eq!(lines, expected, "cut at {cut}");
        assert_eq!(torn, usize::from(cut > kept && cut + 1 < whole.len()), "cut at {cut}");
    }
}

#[test]
fn every_flipped_byte_loses_its_own_line_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    AppendLog::open(&path).unwrap().append_all(&["first", "second", "third"]).unwrap();
    let whole = fs::read(&path).unwrap();
    for position in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x01;
        fs::write(&path, &bytes).unwrap();
        let (lines, torn) = AppendLog::read(&path).unwrap();
        assert!(torn >= 1, "byte {position}");
        assert!(
            lines.iter().all(|line| ["first", "second", "third"].contains(&line.as_str())),
            "byte {position}"
        );
        assert!(lines.len() + 2 >= 3, "byte {position}");
    }
}

#[cfg(feature = "faults")]
#[test]
fn faults_are_named_by_texts() {
    let named = |text: &str| text.parse::<Fault>().map_err(|error| error.to_string());
    assert_eq!(named("count"), Ok(Fault::Count));
    assert_eq!(named("kill:7"), Ok(Fault::Kill(7)));
    assert_eq!(named("full:12"), Ok(Fault::Full(12)));
    for text in ["", "kill", "kill:", "kill:-1", "count:1", "Torn:1"] {
        assert!(
            named(text).unwrap_err().starts_with(&format!("`{text}` is not a fault")),
            "{text}"
        );
    }
}

#[test]
fn writers_at_once_tear_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                // Each has a descriptor of its own, as processes have.
                let log = AppendLog::open(path).unwrap();
                for line in 0..200 {
                    log.append(&format!("{writer} {line} {}", "x".repeat(line * 7))).unwrap();
                }
            });
        }
    });
    let (lines, torn) = AppendLog::read(&path).unwrap();
    assert_eq!((lines.len(), torn), (800, 0));
}
