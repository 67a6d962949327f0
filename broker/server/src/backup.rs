//! Backups over the connection: the broker makes a consistent copy in its own data folder, the client fetches it piece by
//! piece and writes it where it wants, and the copy goes.
//!
//! A client so never makes the broker write to a path of its choosing, and the backup is on the client's machine. There
//! is one copy at a time; it belongs to the connection that asked for it and ends with it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pointsman_core::ConnectionId;
use pointsman_protocol::admin::{BackupFile, Reply};
use pointsman_protocol::limits::BACKUP_PART_MAX;
use pointsman_protocol::{ErrorBody, ErrorCode};
use pointsman_store::Store;

use crate::config::Config;
use crate::start::store_dir;
use crate::{space, tls};

/// Where copies are made, in the data folder.
const FOLDER: &str = "backup.tmp";

/// The copy that is being made or fetched.
#[derive(Debug, Default)]
pub(crate) struct Backups(Mutex<Option<Held>>);

#[derive(Debug)]
struct Held {
    connection: ConnectionId,
    /// `None` while it is being made.
    copy: Option<Arc<Copy>>,
}

/// A copy on disk; it is removed when this is dropped.
#[derive(Debug)]
struct Copy {
    path: PathBuf,
    files: Vec<BackupFile>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the copy of a backup could not be removed");
        }
        // It stays while another copy is in it.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Removes what a broker left that was killed while it made a backup.
pub(crate) fn remove_leftovers(data_dir: &Path) -> io::Result<()> {
    remove(&data_dir.join(FOLDER))
}

impl Backups {
    /// Makes a copy for a connection; blocks until it is made. One that the connection had before goes.
    pub(crate) fn begin(
        &self,
        connection: ConnectionId,
        config: &Config,
        store: &Store,
    ) -> Result<Reply, ErrorBody> {
        {
            let mut held = self.held();
            if held
                .as_ref()
                .is_some_and(|held| held.connection != connection || held.copy.is_none())
            {
                let message = "another backup is being made";
                return Err(
                    ErrorBody::new(ErrorCode::LimitReached, message).hint("try again when it is done")
                );
            }
            *held = Some(Held {
                connection,
                copy: None,
            });
        }
        let made = make(connection, config, store);
        let mut held = self.held();
        // The connection may have ended meanwhile.
        let slot = held.as_mut().filter(|held| held.connection == connection);
        match (made, slot) {
            (Ok(copy), Some(slot)) => {
                let files = copy.files.clone();
                slot.copy = Some(Arc::new(copy));
                Ok(Reply::Backup(files))
            }
            (Ok(_), None) => Err(none()),
            (Err(error), _) => {
                held.take_if(|held| held.connection == connection);
                Err(error)
            }
        }
    }

    /// A piece of a file of the connection's copy, without the zeros at its end.
    pub(crate) fn read(&self, connection: ConnectionId, file: u32, offset: u64) -> Result<Reply, ErrorBody> {
        let copy = {
            let held = self.held();
            let held = held.as_ref().filter(|held| held.connection == connection);
            held.and_then(|held| held.copy.clone()).ok_or_else(none)?
        };
        let file = copy.files.get(file as usize).ok_or_else(none)?;
        let len = file.len.saturating_sub(offset).min(u64::from(BACKUP_PART_MAX));
        let mut bytes = vec![0; len as usize];
        File::open(copy.path.join(&file.path))
            .and_then(|open| open.read_exact_at(&mut bytes, offset))
            .map_err(|error| failed(&error))?;
        let end = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        bytes.truncate(end);
        Ok(Reply::BackupPart(bytes))
    }

    /// Removes the copy of a connection, if it has one.
    pub(crate) fn end(&self, connection: ConnectionId) {
        self.held().take_if(|held| held.connection == connection);
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies the store and the certificates: a data folder that a broker starts on and that its clients know again.
fn make(connection: ConnectionId, config: &Config, store: &Store) -> Result<Copy, ErrorBody> {
    let (data_dir, free_min) = (&config.data_dir, config.disk_free_min);
    let (needed, free) = (store.size(), space::free_space(data_dir));
    if let Some(free) = free
        && free.saturating_sub(needed) < free_min
    {
        let message = format!(
            "the copy needs up to {needed} bytes for a while and leave disk_free_min = {free_min}, but the disk has \
             {free} bytes free"
        );
        return Err(ErrorBody::new(ErrorCode::LimitReached, message));
    }
    // Its own folder, because the copy for a connection that just ended may still be being made.
    let mut copy = Copy {
        path: data_dir.join(FOLDER).join(connection.0.to_string()),
        files: Vec::new(),
    };
    remove(&copy.path)
        .and_then(|()| fs::create_dir_all(&copy.path))
        .map_err(|error| failed(&error))?;
    store
        .backup(&store_dir(&copy.path))
        .map_err(|error| ErrorBody::new(ErrorCode::StoreFailed, error.to_string()))?;
    for name in tls::FILES {
        fs::copy(data_dir.join(name), copy.path.join(name)).map_err(|error| failed(&error))?;
    }
    copy.files = list(&copy.path).map_err(|error| failed(&error))?;
    Ok(copy)
}

/// All files below a folder, by path.
fn list(top: &Path) -> io::Result<Vec<BackupFile>> {
    let mut files = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let metadata = fs::metadata(&path)?;
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(top).unwrap_or(&path);
            files.push(BackupFile {
                path: relative.to_string_lossy().into_owned(),
                len: metadata.len(),
            });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(error: &io::Error) -> ErrorBody {
    let message = format!("the copy of the data folder cannot be used: {error}");
    ErrorBody::new(ErrorCode::StoreFailed, message)
}

fn none() -> ErrorBody {
    let message = "this connection has no backup, or not that file; it may have been opened anew meanwhile";
    ErrorBody::new(ErrorCode::NotFound, message).hint("begin the backup again")
}
