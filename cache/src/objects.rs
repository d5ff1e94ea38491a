//! The objects of a cache: artifacts under their digests, written elsewhere first and moved in
//! whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{Artifact, ArtifactKind};
use crate::digest::{Digest, FileIdentity, digest_file, digest_listing};
use crate::error::{CacheError, Corrupt, io_error};
use crate::write::{create_dir, create_dir_all, parent_of, rename, set_mode};

mod folder;

pub use folder::{FolderWriter, ScratchDir};

pub(crate) use folder::{NOT_A_FILE, listing};

/// Permission bits of a stored file: readable to all whom the folders let in, writable to none.
pub(crate) const READ_ONLY: u32 = 0o444;

/// The name in `tmp/` of the folder for damaged files.
pub(crate) const CORRUPT: &str = "corrupt";

/// The objects below one cache folder.
#[derive(Debug)]
pub(crate) struct Objects {
    root: PathBuf,
}

/// A stored file: its digest, and its identity when it was hashed.
///
/// A process that still has the file open can write to it, which changes its identity.
#[derive(Debug)]
pub(crate) struct SealedFile {
    pub(crate) digest: Digest,
    pub(crate) identity: FileIdentity,
}

impl Objects {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    /// Returns the path of an object, whether or not it is there.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        let (first, rest) = hex.split_at(2);
        self.root.join("objects").join(first).join(rest)
    }

    /// Whether the artifact is there with its size.
    pub(crate) fn contains(&self, artifact: &Artifact) -> bool {
        size_of(&self.path(&artifact.digest), artifact.kind)
            .is_ok_and(|bytes| bytes == artifact.bytes)
    }

    /// Compares an artifact with its record, hashing its files with `hash`.
    pub(crate) fn verify(
        &self,
        artifact: &Artifact,
        mut hash: impl FnMut(&Path) -> io::Result<(Digest, u64)>,
    ) -> Result<(), Corrupt> {
        let path = self.path(&artifact.digest);
        let found = size_of(&path, artifact.kind).map_err(|source| corrupt(&path, source))?;
        if found != artifact.bytes {
            return Err(Corrupt::Size { path, expected: artifact.bytes, found });
        }

        let found = match artifact.kind.is_folder() {
            false => hash(&path).map(|(digest, _)| digest),
            true => digest_folder(&path, hash),
        };
        match found {
            Ok(found) if found == artifact.digest => Ok(()),
            Ok(found) => Err(Corrupt::Digest { path, found }),
            Err(source) => Err(corrupt(&path, source)),
        }
    }

    /// Whether the stored artifact hashes to its name; if so, a new copy is dropped.
    pub(crate) fn holds(&self, artifact: &Artifact) -> bool {
        self.verify(artifact, digest_file).is_ok()
    }

    /// Returns the path for a new object, in a folder that exists; a damaged object that occupies
    /// it is set aside.
    pub(crate) fn place_for(&self, artifact: &Artifact) -> Result<PathBuf, CacheError> {
        let target = self.path(&artifact.digest);
        // Checked again: another process may have put a sound one there since the caller looked.
        if target.symlink_metadata().is_ok() && !self.holds(artifact) {
            self.set_aside(&artifact.digest)?;
        }
        let folder = parent_of(&target);
        create_dir(folder).map_err(|source| io_error(folder, "created", source))?;
        Ok(target)
    }

    /// Renames a sealed file or folder to its place and returns whether it did: when another
    /// process was faster with the same object, that one stays.
    pub(crate) fn move_in(
        &self,
        from: &Path,
        target: &Path,
        artifact: &Artifact,
    ) -> Result<bool, CacheError> {
        match rename(from, target) {
            Ok(()) => Ok(true),
            Err(_) if self.holds(artifact) => Ok(false),
            Err(source) => Err(io_error(target, "written", source)),
        }
    }

    /// Moves an object to `tmp/corrupt/` and returns its new path.
    pub(crate) fn set_aside(&self, digest: &Digest) -> Result<PathBuf, CacheError> {
        let from = self.path(digest);
        let to = self.place_aside(&digest.to_string())?;
        rename(&from, &to).map_err(|source| io_error(&from, "set aside", source))?;
        Ok(to)
    }

    /// Returns a free name in `tmp/corrupt/`.
    pub(crate) fn place_aside(&self, name: &str) -> Result<PathBuf, CacheError> {
        let folder = self.root.join("tmp").join(CORRUPT);
        create_dir_all(&folder).map_err(|source| io_error(&folder, "created", source))?;
        Ok((1_u64..)
            .map(|attempt| folder.join(format!("{name}-{attempt}")))
            .find(|path| path.symlink_metadata().is_err())
            .expect("a folder cannot hold as many entries as there are numbers"))
    }
}

/// Hashes a file and makes it read-only; also returns its size in bytes.
pub(crate) fn seal_file(path: &Path) -> Result<(SealedFile, u64), CacheError> {
    let seal = || {
        let identity = FileIdentity::of(&path.metadata()?);
        let (digest, size) = digest_file(path)?;
        set_mode(path, READ_ONLY)?;
        Ok((SealedFile { digest, identity }, size))
    };
    seal().map_err(|source| io_error(path, "read and made read-only", source))
}

/// Makes a file read-only that this process hashed while it wrote it; also returns its size in bytes.
pub(crate) fn seal_hashed(path: &Path, digest: Digest) -> Result<(SealedFile, u64), CacheError> {
    let seal = || {
        let identity = FileIdentity::of(&path.symlink_metadata()?);
        set_mode(path, READ_ONLY)?;
        Ok((SealedFile { digest, identity }, identity.size()))
    };
    seal().map_err(|source| io_error(path, "made read-only", source))
}

/// Returns the bytes of a file, or of all files of a folder; an error for any other entry.
fn size_of(path: &Path, kind: ArtifactKind) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    match kind.is_folder() {
        false if metadata.is_file() => Ok(metadata.len()),
        true if metadata.is_dir() => folder::total_size(path),
        false => Err(io::Error::other("it is not a file")),
        true => Err(io::Error::from(io::ErrorKind::NotADirectory)),
    }
}

/// Computes the digest of a stored folder.
fn digest_folder(
    path: &Path,
    mut hash: impl FnMut(&Path) -> io::Result<(Digest, u64)>,
) -> io::Result<Digest> {
    let files = listing(path).map_err(io::Error::other)?;
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
