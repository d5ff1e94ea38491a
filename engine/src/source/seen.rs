//! Identity of a source at the time of its hashing, so that a change during a run is noticed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use refrain_cache::{
    Artifact, ArtifactKind, Digest, FileDigests, FileIdentity, HashedFile, OnHashed, digest_listing,
};

use super::model_folder::{ModelFolder, ModelFolderError};
use super::shards::{Shards, ShardsError};
use super::walk::Walk;

/// An error of hashing a source.
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
    /// The files of a table cannot be found.
    #[error(transparent)]
    Shards(#[from] ShardsError),
}

impl From<ModelFolderError> for HashError {
    fn from(ModelFolderError { path, error }: ModelFolderError) -> HashError {
        HashError::Io { path, error }
    }
}

/// Place and content of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePlace {
    /// The file or folder, or a pattern.
    pub path: PathBuf,
    /// Its content.
    pub kind: ArtifactKind,
    /// The split of a saved data set.
    pub split: Option<String>,
    /// Whether of a model folder only the tokenizer counts.
    pub tokenizer: bool,
}

impl SourcePlace {
    /// The place of a model, a file or a folder.
    pub fn new(path: &Path, kind: ArtifactKind) -> SourcePlace {
        SourcePlace { path: path.into(), kind, split: None, tokenizer: false }
    }

    /// The place of the tokenizer in a model folder.
    pub fn of_tokenizer(path: &Path) -> SourcePlace {
        SourcePlace { tokenizer: true, ..SourcePlace::new(path, ArtifactKind::Model) }
    }

    fn model(&self) -> Result<ModelFolder, ModelFolderError> {
        match self.tokenizer {
            true => ModelFolder::open_tokenizer(&self.path),
            false => ModelFolder::open(&self.path),
        }
    }

    /// Finds the files that count, each with its name as it enters the digest.
    fn files(&self) -> Result<Listing, HashError> {
        let file = || Listing { is_file: true, files: vec![(String::new(), self.path.clone())] };
        Ok(match self.kind {
            ArtifactKind::File => file(),
            ArtifactKind::Model if self.path.is_file() => file(),
            ArtifactKind::Folder => {
                Listing { is_file: false, files: Walk::whole(&self.path)?.files }
            }
            ArtifactKind::Table => {
                let Shards { counted, is_file, .. } =
                    Shards::find(&self.path, self.split.as_deref())?;
                Listing { is_file, files: counted }
            }
            ArtifactKind::Model => {
                let model = self.model()?;
                if let Some(pickle) = model.only_pickle() {
                    return Err(HashError::Pickle { path: pickle.into() });
                }
                let files = model.files().map(|file| (file.name.clone(), file.path.clone()));
                Listing { is_file: false, files: files.collect() }
            }
        })
    }

    /// Returns the folders whose change can change which files count.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn folders(&self) -> Result<Vec<PathBuf>, HashError> {
        Ok(match self.kind {
            ArtifactKind::Table => Shards::find(&self.path, self.split.as_deref())?.folders,
            ArtifactKind::Folder => Walk::whole(&self.path)?.folders,
            ArtifactKind::Model if self.path.is_dir() => {
                self.model()?.folders().map(Path::to_path_buf).collect()
            }
            ArtifactKind::Model | ArtifactKind::File => Vec::new(),
        })
    }
}

/// The files of a source that count.
struct Listing {
    /// Whether the source is one file, whose digest is its own.
    is_file: bool,
    files: Vec<(String, PathBuf)>,
}

/// A source with its digest, and the identity of every file that counts, as of when it was hashed.
///
/// It is made by hashing alone, so that digest and path belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenSource {
    place: SourcePlace,
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
        place: &SourcePlace,
        digests: &FileDigests,
    ) -> Result<Option<SeenSource>, HashError> {
        SeenSource::collect(place, |path| digests.find(path))
    }

    /// Hashes the files of a source whose digests are not remembered; `on_hashed` is told of progress
    /// and can end it.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn hash(
        place: &SourcePlace,
        digests: &FileDigests,
        on_hashed: OnHashed<'_>,
    ) -> Result<SeenSource, HashError> {
        let seen = SeenSource::collect(place, |path| digests.hash(path, on_hashed).map(Some))?;
        Ok(seen.expect("every file was hashed"))
    }

    /// Hashes all files of a source, whatever is remembered of them.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn read(place: &SourcePlace) -> Result<SeenSource, HashError> {
        let digest_of = |path: &Path| HashedFile::read(path, &|_| Ok(())).map(Some);
        Ok(SeenSource::collect(place, digest_of)?.expect("every file was hashed"))
    }

    /// Returns the size in bytes of the files that count.
    ///
    /// # Errors
    /// [`HashError`].
    pub fn size(place: &SourcePlace) -> Result<u64, HashError> {
        let size = |(_, path): &(String, PathBuf)| match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(HashError::Io { path: path.into(), error }),
        };
        place.files()?.files.iter().map(size).sum()
    }

    fn collect(
        place: &SourcePlace,
        digest_of: impl Fn(&Path) -> io::Result<Option<HashedFile>>,
    ) -> Result<Option<SeenSource>, HashError> {
        let mut seen = SeenSource {
            place: place.clone(),
            digest: Digest::of_bytes(b""),
            bytes: 0,
            files: Vec::new(),
        };
        let Listing { is_file, files } = place.files()?;
        let mut listing = Vec::with_capacity(files.len());
        for (name, path) in files {
            let hashed = digest_of(&path);
            let hashed = hashed.map_err(|error| HashError::Io { path: path.clone(), error })?;
            let Some(hashed) = hashed else { return Ok(None) };
            seen.add(&path, hashed.identity);
            listing.push((name, hashed.digest));
        }
        seen.digest = match listing.as_slice() {
            [(_, digest)] if is_file => *digest,
            listing => digest_listing(listing),
        };
        Ok(Some(seen))
    }

    fn add(&mut self, path: &Path, identity: FileIdentity) {
        self.bytes += identity.size();
        self.files.push((path.into(), identity));
    }

    /// The digest of the file, or of the list of files that count.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Where the source lies.
    pub fn place(&self) -> &SourcePlace {
        &self.place
    }

    /// The source as an artifact.
    pub fn artifact(&self, base: Option<Digest>) -> Artifact {
        let SeenSource { ref place, digest, bytes, .. } = *self;
        Artifact { kind: place.kind, digest, bytes, rows: None, base }
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
        let Ok(Listing { files, .. }) = self.place.files() else {
            return Some(self.place.path.clone());
        };
        let known = |path: &Path| self.files.iter().any(|(known, _)| known == path);
        files.into_iter().map(|(_, path)| path).find(|path| !known(path))
    }
}
