//! Looking after the cache: listing, checking and removing.

use std::sync::atomic::AtomicU64;

use super::Cache;
use crate::error::CacheError;
use crate::gc::{self, Damage, Entry, Listing, ListingError, RemovalPlan, RemoveError};
use crate::logs::Records;
use crate::objects::CORRUPT;
use crate::presence::{Presence, RemovalLock};

impl Cache {
    /// Announces this process to the others: what it finds in the cache is not removed by
    /// [`Cache::remove`] of another process before it ends. Call it before opening the records.
    ///
    /// # Errors
    /// I/O errors in `tmp/`.
    pub fn begin_write(&self) -> Result<(), CacheError> {
        self.session.folder().map(drop)
    }

    /// Waits for other processes that are removing, and keeps processes from beginning to write.
    ///
    /// # Errors
    /// I/O errors in `tmp/`.
    pub fn lock_for_removal(&self) -> Result<RemovalLock, CacheError> {
        // Opened first: with the lock held this process could not begin to write either.
        self.begin_write()?;
        RemovalLock::acquire(&self.root)
    }

    /// Lists the contents of the cache. Nothing is hashed.
    ///
    /// # Errors
    /// I/O errors of folders and records.
    pub fn listing(&self, records: &Records) -> Result<Listing, ListingError> {
        let (leftovers, sessions) = self.sessions()?;
        Listing::read(&self.root, records, leftovers, sessions)
    }

    /// Hashes every object of the listing and sets aside those that do not match their digest. No
    /// remembered digest is trusted; `done` counts the bytes that were hashed.
    ///
    /// # Errors
    /// I/O errors of setting aside; all objects are hashed before.
    pub fn verify_objects(
        &self,
        listing: &Listing,
        done: &AtomicU64,
    ) -> Result<Vec<Damage>, CacheError> {
        gc::verify_objects(&self.objects, listing, done)
    }

    /// Checks every line of the logs and every entry of the row memos. A damaged log is set aside
    /// and rewritten without its damaged lines, unless another process works with the cache.
    ///
    /// # Errors
    /// I/O errors of the logs.
    pub fn verify_logs(&self) -> Result<Vec<Damage>, CacheError> {
        let mut damages = Vec::new();
        for log in gc::damaged_logs(&self.root)? {
            let lock = self.lock_for_removal()?;
            let alone = self.sessions()?.1.is_empty();
            let aside = match alone {
                true => Some(log.rewrite(&self.objects, &self.session.folder()?, &lock)?),
                false => None,
            };
            damages.push(Damage::Log { path: log.path, places: log.places, aside });
        }
        Ok(damages)
    }

    /// Carries out a plan that was made while `lock` was held, and rewrites logs half of whose
    /// lines are dead.
    ///
    /// Whenever it is stopped, no record is left whose object was removed.
    ///
    /// # Errors
    /// I/O errors; what was removed before stays removed.
    pub fn remove(
        &self,
        plan: &RemovalPlan,
        records: Records,
        lock: RemovalLock,
    ) -> Result<(), RemoveError> {
        gc::remove(&self.root, &self.objects, &self.session, plan, records, lock)
    }

    /// Returns the leftovers of ended processes in `tmp/`, and the names there of other processes
    /// that may be at work.
    fn sessions(&self) -> Result<(Vec<Entry>, Vec<String>), CacheError> {
        let (mut leftovers, mut living) = (Vec::new(), Vec::new());
        for entry in gc::entries(&self.root.join("tmp"))? {
            match self.session.presence(&entry.name) {
                Presence::None if entry.name == CORRUPT => {}
                Presence::Own => {}
                Presence::Other => living.push(entry.name),
                Presence::Ended => leftovers.push(entry),
                Presence::None => {
                    if self.session.is_old(entry.modified) {
                        leftovers.push(entry);
                    }
                }
            }
        }
        Ok((leftovers, living))
    }
}
