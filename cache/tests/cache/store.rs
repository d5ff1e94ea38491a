//! The cache folder: its layout, and artifacts that are whole, read-only and under their digests.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use arrow::array::{Int32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use refrain_cache::{
    Artifact, ArtifactKind, Cache, CacheError, Corrupt, Digest, TableReader, digest_file,
    digest_listing,
};

fn open(folder: &tempfile::TempDir) -> Cache {
    Cache::open(&folder.path().join(".refrain")).unwrap()
}

/// All files below a folder, as relative paths.
fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(folder, &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|path| path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn small_table(cache: &Cache, values: &[i32]) -> Artifact {
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int32, false)]));
    let mut writer = cache.new_table(schema.clone()).unwrap();
    let batch =
        RecordBatch::try_new(schema, vec![Arc::new(Int32Array::from(values.to_vec()))]).unwrap();
    writer.write(&batch).unwrap();
    cache.store_table(writer).unwrap()
}

fn small_model(cache: &Cache) -> Artifact {
    let folder = cache.new_folder().unwrap();
    folder.write("config.json", b"{}").unwrap();
    let mut weights = folder.create("sub/model.safetensors").unwrap();
    weights.write_all(b"weights").unwrap();
    weights.commit().unwrap();
    cache.store_folder(folder, ArtifactKind::Model, Some(Digest::of_bytes(b"base"))).unwrap()
}

fn small_file(cache: &Cache, bytes: &[u8]) -> Artifact {
    let scratch = cache.scratch_dir().unwrap();
    fs::write(scratch.path().join("out"), bytes).unwrap();
    cache.store_file(&scratch.path().join("out")).unwrap()
}

/// Overwrites a stored file although it is read-only.
fn damage(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_new_cache_has_the_documented_layout() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    assert_eq!(files(cache.root()), [".gitignore", "CACHEDIR.TAG", "format"]);
    assert_eq!(fs::read_to_string(cache.root().join(".gitignore")).unwrap(), "*\n");
    assert_eq!(fs::read_to_string(cache.root().join("format")).unwrap(), "1\n");
    let tag = fs::read_to_string(cache.root().join("CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    for name in ["objects", "records", "rows", "runs", "tmp", "unfinished"] {
        assert!(cache.root().join(name).is_dir(), "{name}");
    }
    open(&folder);
}

#[test]
fn a_newer_layout_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = open(&folder).root().to_path_buf();
    fs::write(root.join("format"), "2\n").unwrap();
    let error = Cache::open(&root).unwrap_err();
    assert!(matches!(error, CacheError::Newer { found: 2, known: 1, .. }));
    assert!(error.to_string().contains("layout 2"), "{error}");
    assert_eq!(fs::read_to_string(root.join("format")).unwrap(), "2\n");
}

#[test]
fn a_folder_with_other_things_in_it_is_no_cache() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "").unwrap();
    let error = Cache::open(folder.path()).unwrap_err();
    assert!(
        matches!(&error, CacheError::NotACache { entry, .. } if entry == "thesis.tex"),
        "{error}"
    );
    assert_eq!(files(folder.path()), ["thesis.tex"]);
}

#[test]
fn a_cache_whose_creation_was_killed_is_completed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("objects")).unwrap();
    fs::write(folder.path().join(".gitignore"), "*\n").unwrap();
    fs::write(folder.path().join(".refrain-x1Y2z3"), "").unwrap();
    Cache::open(folder.path()).unwrap();
    assert!(folder.path().join("format").is_file());
}

#[test]
fn artifacts_lie_read_only_under_their_digests() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let (table, model, file) =
        (small_table(&cache, &[1, 2, 3]), small_model(&cache), small_file(&cache, b"bytes"));
    assert_eq!((table.kind, table.rows), (ArtifactKind::Table, Some(3)));
    assert_eq!(
        (model.kind, model.bytes, model.base),
        (ArtifactKind::Model, 9, Some(Digest::of_bytes(b"base")))
    );
    assert_eq!(
        (file.kind, file.bytes, file.digest),
        (ArtifactKind::File, 5, Digest::of_bytes(b"bytes"))
    );
    let listed = [
        ("config.json".to_owned(), Digest::of_bytes(b"{}")),
        ("sub/model.safetensors".to_owned(), Digest::of_bytes(b"weights")),
    ];
    assert_eq!(model.digest, digest_listing(&listed));
    let path = cache.object_path(&table.digest);
    let hex = table.digest.to_string();
    assert_eq!(path, cache.root().join("objects").join(&hex[..2]).join(&hex[2..]));
    assert_eq!(digest_file(&path).unwrap(), (table.digest, table.bytes));
    assert_eq!(TableReader::open(&path).unwrap().rows(), 3);
    for (artifact, inside) in [(&table, ""), (&model, "config.json"), (&file, "")] {
        assert!(cache.contains(artifact));
        cache.verify(artifact).unwrap();
        let path = cache.object_path(&artifact.digest).join(inside);
        let path = if inside.is_empty() { cache.object_path(&artifact.digest) } else { path };
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o444);
    }
    assert_eq!(open(&folder).object_path(&file.digest), cache.object_path(&file.digest));
}

#[test]
fn the_same_artifact_is_kept_once_and_nothing_is_left_in_tmp() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    for _ in 0..2 {
        small_table(&cache, &[1]);
        small_model(&cache);
        small_file(&cache, b"bytes");
    }
    drop(cache.new_table(Arc::new(Schema::empty())));
    drop(cache.new_folder().unwrap());
    let root = cache.root().to_path_buf();
    assert_eq!(files(&root.join("objects")).len(), 4, "a table, a file, and a model's two files");
    let session = fs::read_dir(root.join("tmp")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(files(&session), ["lock"]);
    drop(cache);
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}

/// Where the record was lost with the object's bytes nobody asked for the object before it is made
/// again.
#[test]
fn a_new_artifact_replaces_a_damaged_one_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let make =
        || [small_table(&cache, &[1, 2, 3]), small_model(&cache), small_file(&cache, b"bytes")];
    for (artifact, inside) in make().iter().zip(["", "config.json", ""]) {
        let path = cache.object_path(&artifact.digest);
        let path = if inside.is_empty() { path } else { path.join(inside) };
        let length = fs::read(&path).unwrap().len();
        damage(&path, &vec![0; length]);
        assert!(cache.contains(artifact) && cache.verify(artifact).is_err());
    }
    for artifact in make() {
        cache.verify(&artifact).unwrap();
    }
    let aside = fs::read_dir(cache.root().join("tmp/corrupt")).unwrap().count();
    assert_eq!(aside, 3, "what was damaged is kept to be looked at");
}

/// A command may leave a process behind that still writes to its output.
#[test]
fn a_file_that_changes_after_it_was_stored_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let stored =
        [small_table(&cache, &[1, 2, 3]), small_model(&cache), small_file(&cache, b"bytes")];
    for (artifact, inside) in stored.iter().zip(["", "config.json", ""]) {
        let path = cache.object_path(&artifact.digest);
        let path = if inside.is_empty() { path } else { path.join(inside) };
        let length = fs::read(&path).unwrap().len();
        std::thread::sleep(std::time::Duration::from_millis(20));
        damage(&path, &vec![0; length]);
    }
    let known = cache.file_digests().unwrap();
    cache.sync(&known).unwrap();
    for artifact in &stored {
        let found = cache.verify_remembered(artifact, &known);
        assert!(matches!(found, Err(Corrupt::Digest { .. })), "{found:?}");
    }
}

#[test]
fn corruption_is_found_named_and_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let table = small_table(&cache, &[1, 2, 3]);
    let path = cache.object_path(&table.digest);
    let sound = fs::read(&path).unwrap();
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 1;
    damage(&path, &flipped);
    assert!(cache.contains(&table), "the size is right");
    let error = cache.verify(&table).unwrap_err();
    assert!(
        matches!(&error, Corrupt::Digest { found, .. } if *found == Digest::of_bytes(&flipped)),
        "{error}"
    );
    damage(&path, &sound[1..]);
    assert!(!cache.contains(&table));
    assert!(matches!(cache.verify(&table), Err(Corrupt::Size { .. })));
    let aside = cache.set_aside(&table).unwrap();
    assert_eq!(fs::read(&aside).unwrap(), sound[1..]);
    assert!(matches!(cache.verify(&table), Err(Corrupt::Missing { .. })));
    assert_eq!(small_table(&cache, &[1, 2, 3]), table);
    cache.verify(&table).unwrap();
    assert_ne!(cache.set_aside(&table).unwrap(), aside);
}

#[test]
fn what_wrongly_stands_in_the_place_of_an_artifact_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let (table, model, file) =
        (small_table(&cache, &[1]), small_model(&cache), small_file(&cache, b"bytes"));
    damage(&cache.object_path(&table.digest), b"short");
    damage(&cache.object_path(&model.digest).join("config.json"), b"longer than before");
    fs::remove_file(cache.object_path(&file.digest)).unwrap();
    fs::create_dir(cache.object_path(&file.digest)).unwrap();
    assert_eq!(
        (small_table(&cache, &[1]), small_model(&cache), small_file(&cache, b"bytes")),
        (table.clone(), model.clone(), file.clone())
    );
    for artifact in [&table, &model, &file] {
        cache.verify(artifact).unwrap();
    }
}

#[test]
fn a_remembered_artifact_is_not_read_again_and_a_touched_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let model = small_model(&cache);
    let known = cache.file_digests().unwrap();
    cache.verify_remembered(&model, &known).unwrap();
    damage(&cache.object_path(&model.digest).join("sub/model.safetensors"), b"Weights");
    assert!(matches!(cache.verify_remembered(&model, &known), Err(Corrupt::Digest { .. })));
}

#[test]
fn names_do_not_leave_a_folder_and_links_do_not_enter_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let writer = cache.new_folder().unwrap();
    for name in ["../out", "/etc/passwd", "a/../../b", "", "."] {
        assert!(writer.write(name, b"").is_err(), "{name}");
    }
    std::os::unix::fs::symlink("/etc/passwd", writer.path().join("link")).unwrap();
    let error = cache.store_folder(writer, ArtifactKind::Model, None).unwrap_err();
    assert!(
        matches!(&error, CacheError::Unstorable { path, .. } if path.ends_with("link")),
        "{error}"
    );
    let scratch = cache.scratch_dir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", scratch.path().join("link")).unwrap();
    assert!(matches!(
        cache.store_file(&scratch.path().join("link")),
        Err(CacheError::Unstorable { .. })
    ));
}

#[test]
fn a_file_of_a_folder_that_was_not_committed_is_not_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    let writer = cache.new_folder().unwrap();
    writer.write("config.json", b"{}").unwrap();
    writer.create("half").unwrap().write_all(b"half").unwrap();
    assert_eq!(files(writer.path()), ["config.json"]);
}

#[test]
fn leftovers_of_dead_processes_are_removed_and_those_of_live_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let live = open(&folder);
    let scratch = live.scratch_dir().unwrap();
    let tmp = live.root().join("tmp");
    let dead = tmp.join("session-dead");
    let young = tmp.join("session-young");
    for path in [&dead, &young] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("lock"), "").unwrap();
    }
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 60 * 60);
    let own = scratch.path().parent().unwrap();
    for path in [&dead.join("lock"), &dead, &own.join("lock"), own] {
        fs::File::open(path).unwrap().set_modified(old).unwrap();
    }
    open(&folder);
    assert!(!dead.exists());
    assert!(young.exists());
    assert!(scratch.path().exists());
}

#[test]
fn threads_at_once_store_the_same_artifacts() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder);
    for round in 0..10 {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    small_table(&cache, &[round]);
                    let writer = cache.new_folder().unwrap();
                    writer.write("config.json", &[round as u8]).unwrap();
                    cache.store_folder(writer, ArtifactKind::Model, None).unwrap();
                    small_file(&cache, &[round as u8]);
                });
            }
        });
    }
    assert_eq!(files(&cache.root().join("objects")).len(), 30);
    assert!(!cache.root().join("tmp/corrupt").exists());
}
