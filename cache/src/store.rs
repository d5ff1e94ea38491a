//! The cache folder and its objects: artifacts under their digests, written elsewhere first and moved in when they are on disk.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::claims::Claims;
use crate::digest::{Digest, digest_file, digest_listing};
use crate::file_digests::{FileDigests, FileIdentity};
use crate::manifest::Key;
use crate::records::{RecordError, Records};
use crate::rows::Rows;
use crate::table::TableWriter;
use crate::write::{create_dir, create_dir_all, parent_of, rename, set_mode, sync_all_in};

mod artifacts;
mod error;
mod folder;
mod gate;
mod layout;
mod session;

pub use artifacts::Artifacts;
pub use error::{CacheError, Corrupt};
pub use folder::{FolderWriter, ScratchDir};
pub use gate::Gate;
pub use session::Sharing;

pub(crate) use folder::listing as listing_of;
pub(crate) use session::{Session, Watch};

use gate::CORRUPT;

/// Permission bits of a stored file: readable to all whom the folders let in, writable to none.
const READ_ONLY: u32 = 0o444;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// A Parquet file.
    Table,
    /// A folder in Hugging Face layout.
    Model,
    /// Any other file.
    File,
}

/// What a node made, as a record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// What it is.
    pub kind: ArtifactKind,
    /// The digest of the file, or of the folder's listing.
    pub digest: Digest,
    /// Size in bytes: of the file, or of all files of the folder.
    pub bytes: u64,
    /// Rows of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Of an adapter, the digest of the model that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
}

/// An open cache folder, shared by the threads of a process. Other processes may use the same folder meanwhile.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    sharing: Sharing,
    pub(crate) claims: OnceLock<Option<Claims>>,
    session: Session,
    /// Files that this process hashed and moved in, for [`Cache::sync`].
    placed: Mutex<Vec<(PathBuf, Settled)>>,
    /// The row memos that this process uses.
    rows: Mutex<HashMap<Key, Arc<Rows>>>,
}

impl Cache {
    /// Opens the cache folder `root`, and creates it where there is none.
    ///
    /// # Errors
    /// [`CacheError::Newer`] for a layout that this version does not know, [`CacheError::NotACache`] for a folder that
    /// holds something else, and those of the file system.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        Self::open_shared(root, Sharing::default())
    }

    /// As [`Cache::open`], with other rules for the processes that share the cache; all must follow the same ones.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn open_shared(root: &Path, sharing: Sharing) -> Result<Self, CacheError> {
        let root = std::path::absolute(root).map_err(|source| io_error(root, "opened", source))?;
        layout::open_or_create(&root, sharing)?;
        let session = Session::new(&root.join("tmp"), sharing);
        Ok(Self {
            root,
            sharing,
            claims: OnceLock::new(),
            session,
            placed: Mutex::default(),
            rows: Mutex::default(),
        })
    }

    /// The cache folder, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder for the event logs of runs.
    pub fn runs_dir(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// The folder for the row memo.
    pub fn rows_dir(&self) -> PathBuf {
        self.root.join("rows")
    }

    /// Opens the records of this cache.
    ///
    /// # Errors
    /// Those of opening and reading the log.
    pub fn records(&self) -> Result<Records, RecordError> {
        Records::open(&self.root.join("records/records.log"))
    }

    /// Opens the remembered digests of files.
    ///
    /// # Errors
    /// Those of reading the log.
    pub fn file_digests(&self) -> Result<FileDigests, CacheError> {
        let path = self.root.join("records/files.log");
        FileDigests::open(&path).map_err(|source| io_error(&path, "read", source))
    }

    /// Where the artifact with this digest is, when the cache has it.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        let (first, rest) = hex.split_at(2);
        self.root.join("objects").join(first).join(rest)
    }

    /// Whether the artifact is there with its size. Its bytes are not read: see [`Cache::verify`].
    pub fn contains(&self, artifact: &Artifact) -> bool {
        size_of(&self.object_path(&artifact.digest), artifact.kind)
            .is_ok_and(|bytes| bytes == artifact.bytes)
    }

    /// Starts a table, to be given to [`Cache::store_table`].
    ///
    /// # Errors
    /// Those of creating a file, and `Unsupported` of [`TableError`](crate::TableError) for a column type that a table cannot hold.
    pub fn new_table(&self, schema: SchemaRef) -> Result<TableWriter, CacheError> {
        Ok(TableWriter::create_in(&self.session.folder()?, schema)?)
    }

    /// Completes a table and moves it into the cache; one that the cache holds already is kept.
    ///
    /// # Errors
    /// Those of writing and renaming.
    pub fn store_table(&self, writer: TableWriter) -> Result<Artifact, CacheError> {
        let (info, temp) = writer.close()?;
        let artifact = Artifact {
            kind: ArtifactKind::Table,
            digest: info.digest,
            bytes: info.bytes,
            rows: Some(info.rows),
            base: None,
        };
        if !self.holds(&artifact) {
            let target = self.place_for(&artifact)?;
            let placed = temp.place(&target, Some(READ_ONLY));
            let metadata = placed.map_err(|source| io_error(&target, "written", source))?;
            let identity = FileIdentity::of(&metadata);
            self.placed().push((target, Settled { digest: artifact.digest, identity }));
        }
        Ok(artifact)
    }

    /// Starts a folder, such as a model's, to be given to [`Cache::store_folder`].
    ///
    /// # Errors
    /// Those of creating a folder.
    pub fn new_folder(&self) -> Result<FolderWriter, CacheError> {
        FolderWriter::new(self.scratch_dir()?)
    }

    /// Hashes a folder's files and moves it into the cache; one that the cache holds already is kept.
    ///
    /// # Errors
    /// [`CacheError::Unstorable`] for an entry that is neither file nor folder or has no UTF-8 name; those of reading
    /// and renaming.
    pub fn store_folder(
        &self,
        folder: FolderWriter,
        kind: ArtifactKind,
        base: Option<Digest>,
    ) -> Result<Artifact, CacheError> {
        let files = folder::listing(folder.path())?;
        let mut digests = Vec::with_capacity(files.len());
        let mut settled = Vec::with_capacity(files.len());
        let mut bytes = 0;
        for relative in files {
            let (file, size) = settle_file(&folder.path().join(&relative))?;
            bytes += size;
            digests.push((relative, file.digest));
            settled.push(file);
        }
        let artifact = Artifact { kind, digest: digest_listing(&digests), bytes, rows: None, base };
        if !self.holds(&artifact) {
            let target = self.place_for(&artifact)?;
            if self.move_in(folder.path(), &target, &artifact)? {
                let paths = digests.iter().map(|(relative, _)| target.join(relative));
                self.placed().extend(paths.zip(settled));
            }
        }
        Ok(artifact)
    }

    /// Moves a file, made in a [`ScratchDir`] of this cache, into the cache; one that the cache holds already is kept.
    ///
    /// # Errors
    /// [`CacheError::Unstorable`] for a link; those of reading and renaming.
    pub fn store_file(&self, path: &Path) -> Result<Artifact, CacheError> {
        let metadata = path.symlink_metadata().map_err(|source| io_error(path, "read", source))?;
        if !metadata.is_file() {
            return Err(CacheError::Unstorable { path: path.into(), reason: folder::NOT_A_FILE });
        }
        let (file, bytes) = settle_file(path)?;
        let artifact = Artifact {
            kind: ArtifactKind::File,
            digest: file.digest,
            bytes,
            rows: None,
            base: None,
        };
        if !self.holds(&artifact) {
            let target = self.place_for(&artifact)?;
            if self.move_in(path, &target, &artifact)? {
                self.placed().push((target, file));
            }
        }
        Ok(artifact)
    }

    /// A new empty folder under `tmp/`, removed with all that is in it when it is dropped.
    ///
    /// # Errors
    /// Those of creating a folder.
    pub fn scratch_dir(&self) -> Result<ScratchDir, CacheError> {
        ScratchDir::new_in(&self.session.folder()?)
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The folder in which this process writes what is not complete yet.
    pub(crate) fn session_folder(&self) -> Result<PathBuf, CacheError> {
        self.session.folder()
    }

    /// Reads and hashes an artifact, and compares it with its record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, artifact: &Artifact) -> Result<(), Corrupt> {
        self.verify_by(artifact, digest_file)
    }

    /// As [`Cache::verify`], but a file that was hashed before and has not been touched since is not read again.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_remembered(
        &self,
        artifact: &Artifact,
        known: &FileDigests,
    ) -> Result<(), Corrupt> {
        // Nearly always one look at the file says it all.
        if artifact.kind != ArtifactKind::Model {
            let path = self.object_path(&artifact.digest);
            let now = path
                .symlink_metadata()
                .ok()
                .filter(|now| now.is_file() && now.len() == artifact.bytes);
            let found = now.and_then(|now| known.known(path.as_os_str(), &FileIdentity::of(&now)));
            if found == Some(artifact.digest) {
                return Ok(());
            }
        }
        self.verify_by(artifact, |path| known.get(path))
    }

    /// Moves what stands in the place of an artifact to `tmp/corrupt/`, and says where it is now.
    ///
    /// # Errors
    /// Those of creating a folder and renaming.
    pub fn set_aside(&self, artifact: &Artifact) -> Result<PathBuf, CacheError> {
        self.set_object_aside(&artifact.digest)
    }

    /// As [`Cache::set_aside`], of the object with this name.
    pub(crate) fn set_object_aside(&self, digest: &Digest) -> Result<PathBuf, CacheError> {
        let from = self.object_path(digest);
        let to = self.place_aside(&digest.to_string())?;
        rename(&from, &to).map_err(|source| io_error(&from, "set aside", source))?;
        Ok(to)
    }

    /// A free name in `tmp/corrupt/`.
    pub(crate) fn place_aside(&self, name: &str) -> Result<PathBuf, CacheError> {
        let folder = self.root.join("tmp").join(CORRUPT);
        create_dir_all(&folder).map_err(|source| io_error(&folder, "created", source))?;
        Ok((1_u64..)
            .map(|attempt| folder.join(format!("{name}-{attempt}")))
            .find(|path| path.symlink_metadata().is_err())
            .expect("a folder cannot hold as many entries as there are numbers"))
    }

    /// Puts on disk all that was stored so far, and hands the digests of its files over, so that they are not hashed
    /// again. Until then a stored file may be lost in a power cut, and is hashed before it is trusted.
    ///
    /// # Errors
    /// Those of syncing.
    pub fn sync(&self, known: &FileDigests) -> Result<(), CacheError> {
        let placed = std::mem::take(&mut *self.placed());
        sync_all_in(&self.root).map_err(|source| io_error(&self.root, "synced", source))?;
        for (path, Settled { digest, identity }) in placed {
            if path.metadata().is_ok_and(|metadata| FileIdentity::of(&metadata) == identity) {
                known.adopt(&path, digest);
            }
        }
        Ok(())
    }

    /// A list of whole entries; a thread that panicked left it sound.
    fn placed(&self) -> MutexGuard<'_, Vec<(PathBuf, Settled)>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A map of whole entries; a thread that panicked left it sound.
    pub(crate) fn opened_rows(&self) -> MutexGuard<'_, HashMap<Key, Arc<Rows>>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verify_by(
        &self,
        artifact: &Artifact,
        mut hash: impl FnMut(&Path) -> io::Result<(Digest, u64)>,
    ) -> Result<(), Corrupt> {
        let path = self.object_path(&artifact.digest);
        let found = size_of(&path, artifact.kind).map_err(|source| corrupt(&path, source))?;
        if found != artifact.bytes {
            return Err(Corrupt::Size { path, expected: artifact.bytes, found });
        }
        let found = match artifact.kind {
            ArtifactKind::Table | ArtifactKind::File => hash(&path).map(|(digest, _)| digest),
            ArtifactKind::Model => digest_folder(&path, hash),
        };
        match found {
            Ok(found) if found == artifact.digest => Ok(()),
            Ok(found) => Err(Corrupt::Digest { path, found }),
            Err(source) => Err(corrupt(&path, source)),
        }
    }

    /// Whether the artifact is there with its very bytes: a new one is dropped in favour of it.
    fn holds(&self, artifact: &Artifact) -> bool {
        self.verify(artifact).is_ok()
    }

    /// The path for a new object, in a folder that exists; what wrongly stands there is set aside.
    fn place_for(&self, artifact: &Artifact) -> Result<PathBuf, CacheError> {
        let target = self.object_path(&artifact.digest);
        // Asked again, because another process may have put a sound one there since the caller asked.
        if target.symlink_metadata().is_ok() && !self.holds(artifact) {
            self.set_aside(artifact)?;
        }
        let folder = parent_of(&target);
        create_dir(folder).map_err(|source| io_error(folder, "created", source))?;
        Ok(target)
    }

    /// Renames a settled file or folder to its place; when another process was faster with the same object, that one stays.
    /// Says whether it was this one.
    fn move_in(&self, from: &Path, target: &Path, artifact: &Artifact) -> Result<bool, CacheError> {
        match rename(from, target) {
            Ok(()) => Ok(true),
            Err(_) if self.holds(artifact) => Ok(false),
            Err(source) => Err(io_error(target, "written", source)),
        }
    }
}

/// A file that is not to change any more.
#[derive(Debug)]
struct Settled {
    digest: Digest,
    /// What it was when it was hashed: whoever still has it open can write to it all the same.
    identity: FileIdentity,
}

/// Hashes a file and takes away the permission to write it; also its size in bytes.
fn settle_file(path: &Path) -> Result<(Settled, u64), CacheError> {
    let settle = || {
        let identity = FileIdentity::of(&path.metadata()?);
        let (digest, size) = digest_file(path)?;
        set_mode(path, READ_ONLY)?;
        Ok((Settled { digest, identity }, size))
    };
    settle().map_err(|source| io_error(path, "read and made read-only", source))
}

/// Bytes of a file, or of all files of a folder; an error when something else stands there.
fn size_of(path: &Path, kind: ArtifactKind) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    match kind {
        ArtifactKind::Table | ArtifactKind::File if metadata.is_file() => Ok(metadata.len()),
        ArtifactKind::Model if metadata.is_dir() => folder::total_size(path),
        ArtifactKind::Table | ArtifactKind::File => Err(io::Error::other("it is not a file")),
        ArtifactKind::Model => Err(io::Error::from(io::ErrorKind::NotADirectory)),
    }
}

/// The digest of a stored folder.
fn digest_folder(
    path: &Path,
    mut hash: impl FnMut(&Path) -> io::Result<(Digest, u64)>,
) -> io::Result<Digest> {
    let files = folder::listing(path).map_err(io::Error::other)?;
    let digests: io::Result<Vec<(String, Digest)>> = files
        .into_iter()
        .map(|relative| hash(&path.join(&relative)).map(|(digest, _)| (relative, digest)))
        .collect();
    Ok(digest_listing(&digests?))
}

fn corrupt(path: &Path, source: io::Error) -> Corrupt {
    match source.kind() {
        io::ErrorKind::NotFound => Corrupt::Missing { path: path.into() },
        _ => Corrupt::Unreadable { path: path.into(), source },
    }
}

pub(crate) fn io_error(path: &Path, action: &'static str, source: io::Error) -> CacheError {
    CacheError::Io { path: path.into(), action, source }
}
