//! What was seen of a source when it was hashed, so that a change during a run is noticed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use refrain_cache::{
    Artifact, ArtifactKind, Digest, FileDigests, FileIdentity, HashedFile, OnHashed, digest_listing,
};

use super::model_folder::{ModelFolder, ModelFolderError};

/// Why a source could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The system refused.
    #[error("cannot read `{}`: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// The only weights of a model folder are pickled.
    #[error("`{}` is a pickle, which runs code when it is read", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
    },
}

impl From<ModelFolderError> for HashError {
    fn from(ModelFolderError { path, error }: ModelFolderError) -> HashError {
        HashError::Io { path, error }
    }
}

/// A source with its digest, and the identity of every file that counts, as of when it was hashed.
///
/// It is made by hashing alone, so that digest and path belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenSource {
    path: PathBuf,
    kind: ArtifactKind,
    digest: Digest,
    bytes: u64,
    files: Vec<(PathBuf, FileIdentity)>,
}

impl SeenSource {
    /// Looks up the remembered digests of a file's or model's files; `None` where one must be hashed.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn find(
        path: &Path,
        kind: ArtifactKind,
        digests: &FileDigests,
    ) -> Result<Option<SeenSource>, HashError> {
        SeenSource::collect(path, kind, |path| digests.find(path))
    }

    /// Hashes the files of a source whose digests are not remembered; `on_hashed` is told of progress
    /// and can end it.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn hash(
        path: &Path,
        kind: ArtifactKind,
        digests: &FileDigests,
        on_hashed: OnHashed<'_>,
    ) -> Result<SeenSource, HashError> {
        let seen = SeenSource::collect(path, kind, |path| digests.hash(path, on_hashed).map(Some))?;
        Ok(seen.expect("every file was hashed"))
    }

    /// Hashes all files of a source, whatever is remembered of them.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn read(path: &Path, kind: ArtifactKind) -> Result<SeenSource, HashError> {
        let digest_of = |path: &Path| HashedFile::read(path, &|_| Ok(())).map(Some);
        Ok(SeenSource::collect(path, kind, digest_of)?.expect("every file was hashed"))
    }

    /// Returns the size in bytes of the files that count.
    ///
    /// # Errors
    /// [`HashError::Io`].
    pub fn size(path: &Path, kind: ArtifactKind) -> Result<u64, HashError> {
        let size = |path: &Path| match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(HashError::Io { path: path.into(), error }),
        };
        match kind {
            ArtifactKind::Table | ArtifactKind::File => size(path),
            ArtifactKind::Model => {
                ModelFolder::open(path)?.files().map(|file| size(&file.path)).sum()
            }
        }
    }

    fn collect(
        path: &Path,
        kind: ArtifactKind,
        digest_of: impl Fn(&Path) -> io::Result<Option<HashedFile>>,
    ) -> Result<Option<SeenSource>, HashError> {
        let digest_of = |path: &Path| {
            digest_of(path).map_err(|error| HashError::Io { path: path.into(), error })
        };
        let mut seen = SeenSource {
            path: path.into(),
            kind,
            digest: Digest::of_bytes(b""),
            bytes: 0,
            files: Vec::new(),
        };

        if kind != ArtifactKind::Model || path.is_file() {
            let Some(file) = digest_of(path)? else { return Ok(None) };
            seen.digest = file.digest;
            seen.add(path, file.identity);
            return Ok(Some(seen));
        }

        let model = ModelFolder::open(path)?;
        if let Some(pickle) = model.only_pickle() {
            return Err(HashError::Pickle { path: pickle.into() });
        }
        let mut listing = Vec::new();
        for file in model.files() {
            let Some(hashed) = digest_of(&file.path)? else { return Ok(None) };
            listing.push((file.name.clone(), hashed.digest));
            seen.add(&file.path, hashed.identity);
        }
        seen.digest = digest_listing(&listing);
        Ok(Some(seen))
    }

    fn add(&mut self, path: &Path, identity: FileIdentity) {
        self.bytes += identity.size();
        self.files.push((path.into(), identity));
    }

    /// The digest of the file, or of the list of files that count of a model folder.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The source as an artifact.
    pub fn artifact(&self, base: Option<Digest>) -> Artifact {
        let SeenSource { kind, digest, bytes, .. } = *self;
        Artifact { kind, digest, bytes, rows: None, base }
    }

    /// The files that count, each with its identity when it was hashed.
    pub fn files(&self) -> impl Iterator<Item = (&Path, FileIdentity)> {
        self.files.iter().map(|(path, identity)| (path.as_path(), *identity))
    }

    /// Returns the first file that is not as it was when the source was hashed: changed, removed or
    /// new.
    pub fn first_change(&self) -> Option<PathBuf> {
        let same = |(path, identity): &(PathBuf, FileIdentity)| {
            fs::metadata(path).is_ok_and(|metadata| FileIdentity::of(&metadata) == *identity)
        };
        if let Some((changed, _)) = self.files.iter().find(|file| !same(file)) {
            return Some(changed.clone());
        }
        if self.kind != ArtifactKind::Model {
            return None;
        }

        let Ok(now) = ModelFolder::open(&self.path) else { return Some(self.path.clone()) };
        let known = |path: &Path| self.files.iter().any(|(known, _)| known == path);
        now.files().find(|file| !known(&file.path)).map(|file| file.path.clone())
    }
}
