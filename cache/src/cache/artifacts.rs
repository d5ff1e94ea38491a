//! Storing and checking artifacts.

use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;

use super::Cache;
use crate::artifact::{Artifact, ArtifactKind};
use crate::digest::{Digest, FileIdentity, OnHashed, digest_file, digest_listing};
use crate::error::{CacheError, Corrupt, io_error};
use crate::logs::FileDigests;
use crate::objects::{
    FolderWriter, NOT_A_FILE, READ_ONLY, SealedFile, listing, seal_file, seal_hashed,
};
use crate::table::TableWriter;
use crate::write::sync_all_in;

impl Cache {
    /// Whether the artifact is there with its size. Its bytes are not read: see [`Cache::verify`].
    pub fn contains(&self, artifact: &Artifact) -> bool {
        self.objects.contains(artifact)
    }

    /// Starts a table, to be given to [`Cache::store_table`].
    ///
    /// # Errors
    /// I/O errors, and [`TableError::Unsupported`](crate::TableError) for a column type that a
    /// table cannot hold.
    pub fn new_table(&self, schema: SchemaRef) -> Result<TableWriter, CacheError> {
        Ok(TableWriter::create_in(&self.session.folder()?, schema)?)
    }

    /// Completes a table and moves it into the cache; one that the cache holds already is kept.
    ///
    /// # Errors
    /// I/O errors.
    pub fn store_table(&self, writer: TableWriter) -> Result<Artifact, CacheError> {
        let (info, temp) = writer.close()?;
        let artifact = Artifact {
            kind: ArtifactKind::Table,
            digest: info.digest,
            bytes: info.bytes,
            rows: Some(info.rows),
            base: None,
        };

        if !self.objects.holds(&artifact) {
            let target = self.objects.place_for(&artifact)?;
            let placed = temp.place(&target, Some(READ_ONLY));
            let metadata = placed.map_err(|source| io_error(&target, "written", source))?;
            let identity = FileIdentity::of(&metadata);
            self.placed().push((target, SealedFile { digest: artifact.digest, identity }));
        }
        Ok(artifact)
    }

    /// Starts a folder, such as a model's, to be given to [`Cache::store_folder`].
    ///
    /// # Errors
    /// I/O errors.
    pub fn new_folder(&self) -> Result<FolderWriter, CacheError> {
        FolderWriter::new(self.scratch_dir()?)
    }

    /// Hashes a folder's files and moves it into the cache; one that the cache holds already is
    /// kept.
    ///
    /// # Errors
    /// [`CacheError::Unstorable`] for an entry that is neither file nor folder or has no UTF-8 name,
    /// and I/O errors.
    pub fn store_folder(
        &self,
        folder: FolderWriter,
        kind: ArtifactKind,
        base: Option<Digest>,
    ) -> Result<Artifact, CacheError> {
        let seal = |relative: String| {
            seal_file(&folder.path().join(&relative)).map(|sealed| (relative, sealed))
        };
        let sealed: Result<Vec<_>, CacheError> =
            listing(folder.path())?.into_iter().map(seal).collect();
        self.place_folder(&folder, kind, base, sealed?)
    }

    /// Stores a folder as [`Cache::store_folder`] does, all of whose files this process hashed while
    /// it wrote them; `files` has their relative paths, sorted, and digests.
    ///
    /// # Errors
    /// See [`Cache::store_folder`].
    pub fn store_hashed_folder(
        &self,
        folder: FolderWriter,
        kind: ArtifactKind,
        base: Option<Digest>,
        files: &[(String, Digest)],
    ) -> Result<Artifact, CacheError> {
        let seal = |(relative, digest): &(String, Digest)| {
            let sealed = seal_hashed(&folder.path().join(relative), *digest);
            sealed.map(|sealed| (relative.clone(), sealed))
        };
        let sealed: Result<Vec<_>, CacheError> = files.iter().map(seal).collect();
        self.place_folder(&folder, kind, base, sealed?)
    }

    fn place_folder(
        &self,
        folder: &FolderWriter,
        kind: ArtifactKind,
        base: Option<Digest>,
        files: Vec<(String, (SealedFile, u64))>,
    ) -> Result<Artifact, CacheError> {
        let bytes = files.iter().map(|(_, (_, size))| size).sum();
        let (digests, sealed): (Vec<(String, Digest)>, Vec<SealedFile>) =
            files.into_iter().map(|(relative, (file, _))| ((relative, file.digest), file)).unzip();
        let artifact = Artifact { kind, digest: digest_listing(&digests), bytes, rows: None, base };
        if !self.objects.holds(&artifact) {
            let target = self.objects.place_for(&artifact)?;
            if self.objects.move_in(folder.path(), &target, &artifact)? {
                let paths = digests.iter().map(|(relative, _)| target.join(relative));
                self.placed().extend(paths.zip(sealed));
            }
        }
        Ok(artifact)
    }

    /// Moves a file, made in a [`ScratchDir`](crate::ScratchDir) of this cache, into the cache; one
    /// that the cache holds already is kept.
    ///
    /// # Errors
    /// [`CacheError::Unstorable`] for a link, and I/O errors.
    pub fn store_file(&self, path: &Path) -> Result<Artifact, CacheError> {
        let metadata = path.symlink_metadata().map_err(|source| io_error(path, "read", source))?;
        if !metadata.is_file() {
            return Err(CacheError::Unstorable { path: path.into(), reason: NOT_A_FILE });
        }
        let (file, bytes) = seal_file(path)?;
        self.place_file(path, file, bytes)
    }

    /// Stores a file as [`Cache::store_file`] does, which this process hashed while it wrote it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn store_hashed_file(&self, path: &Path, digest: Digest) -> Result<Artifact, CacheError> {
        let (file, bytes) = seal_hashed(path, digest)?;
        self.place_file(path, file, bytes)
    }

    fn place_file(
        &self,
        path: &Path,
        file: SealedFile,
        bytes: u64,
    ) -> Result<Artifact, CacheError> {
        let artifact = Artifact {
            kind: ArtifactKind::File,
            digest: file.digest,
            bytes,
            rows: None,
            base: None,
        };

        if !self.objects.holds(&artifact) {
            let target = self.objects.place_for(&artifact)?;
            if self.objects.move_in(path, &target, &artifact)? {
                self.placed().push((target, file));
            }
        }
        Ok(artifact)
    }

    /// Returns the relative paths of the files of a stored folder, sorted.
    ///
    /// # Errors
    /// I/O errors.
    pub fn files_of(&self, folder: &Digest) -> Result<Vec<String>, CacheError> {
        listing(&self.object_path(folder))
    }

    /// Hashes an artifact, and compares it with its record.
    ///
    /// # Errors
    /// [`Corrupt`] where they differ.
    pub fn verify(&self, artifact: &Artifact) -> Result<(), Corrupt> {
        self.objects.verify(artifact, digest_file)
    }

    /// Checks an artifact as [`Cache::verify`] does, without reading a file again that was hashed
    /// before and has not been touched since.
    ///
    /// # Errors
    /// [`Corrupt`] where it differs from its record.
    pub fn verify_remembered(
        &self,
        artifact: &Artifact,
        known: &FileDigests,
    ) -> Result<(), Corrupt> {
        self.verify_watched(artifact, known, &|_| Ok(()))
    }

    /// Checks an artifact as [`Cache::verify_remembered`] does, and reports the bytes that it
    /// hashes.
    ///
    /// # Errors
    /// [`Corrupt`] where it differs from its record; [`Corrupt::Unreadable`] with an error of
    /// `on_hashed`.
    pub fn verify_watched(
        &self,
        artifact: &Artifact,
        known: &FileDigests,
        on_hashed: OnHashed<'_>,
    ) -> Result<(), Corrupt> {
        // Nearly always the metadata of the file are enough.
        if !artifact.kind.is_folder() {
            let path = self.object_path(&artifact.digest);
            let now = path.symlink_metadata().ok();
            let now = now.filter(|now| now.is_file() && now.len() == artifact.bytes);
            let found = now.and_then(|now| known.known(path.as_os_str(), &FileIdentity::of(&now)));
            if found == Some(artifact.digest) {
                return Ok(());
            }
        }

        self.objects.verify(artifact, |path| {
            known.hash(path, on_hashed).map(|file| (file.digest, file.identity.size()))
        })
    }

    /// Whether [`Cache::verify_remembered`] would have to hash a file.
    pub fn must_hash(&self, artifact: &Artifact, known: &FileDigests) -> bool {
        let path = self.object_path(&artifact.digest);
        let is_known = |path: &Path| !matches!(known.find(path), Ok(None));
        match artifact.kind.is_folder() {
            false => !is_known(&path),
            true => listing(&path)
                .is_ok_and(|files| !files.iter().all(|relative| is_known(&path.join(relative)))),
        }
    }

    /// Moves a damaged artifact to `tmp/corrupt/` and returns its new path.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_aside(&self, artifact: &Artifact) -> Result<PathBuf, CacheError> {
        self.objects.set_aside(&artifact.digest)
    }

    /// Syncs everything stored so far, and remembers the digests of its files, so that they are not
    /// hashed again. Until then a power cut may lose a stored file, and it is hashed before it is
    /// trusted.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self, known: &FileDigests) -> Result<(), CacheError> {
        let placed = std::mem::take(&mut *self.placed());
        sync_all_in(&self.root).map_err(|source| io_error(&self.root, "synced", source))?;
        for (path, SealedFile { digest, identity }) in placed {
            let now = path.metadata().map(|metadata| FileIdentity::of(&metadata));
            if let Ok(now) = now.as_ref()
                && now.has_content_of(&identity)
            {
                known.adopt(&path, *now, digest);
            }
        }
        Ok(())
    }
}
