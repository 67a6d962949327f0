//! The folder: what it is, and who holds it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::OpenError;
use crate::mark::{self, Mark};
use crate::staged::Table;

/// The format this version writes. Raised when an older version could no longer read what is written.
pub(crate) const FORMAT: u32 = 3;

/// The first format, which had no write-ahead log but fjall's journals.
pub(crate) const FORMAT_WITH_JOURNALS: u32 = 1;

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
const FJALL_FOLDER: &str = "fjall";
const WAL_FOLDER: &str = "wal";

/// A data folder that this process holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    format: u32,
    _lock: File,
}

impl Folder {
    /// Makes the folder if there is none, checks what it is, and holds it against other processes.
    pub(crate) fn hold(path: &Path) -> Result<Folder, OpenError> {
        let io = |source| OpenError::Io {
            folder: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        if !path.join(FORMAT_FILE).exists() && !is_new(path).map_err(io)? {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        let lock = lock(path)?;
        let format = match fs::read_to_string(path.join(FORMAT_FILE)) {
            Ok(text) => read_format(path, &text)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Mark::create(path).and_then(|_| write_format(path)).map_err(io)?;
                FORMAT
            }
            Err(e) => return Err(io(e)),
        };
        Ok(Folder {
            path: path.to_owned(),
            format,
            _lock: lock,
        })
    }

    /// Holds a folder that is there; makes none.
    pub(crate) fn hold_existing(path: &Path) -> Result<Folder, OpenError> {
        match fs::metadata(path.join(FORMAT_FILE)) {
            Ok(_) => Folder::hold(path),
            Err(source) => Err(OpenError::Io {
                folder: path.to_owned(),
                source,
            }),
        }
    }

    /// The data folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The format it has.
    pub(crate) fn format(&self) -> u32 {
        self.format
    }

    /// How many keyspaces of ours it has for certain.
    pub(crate) fn trees(&self) -> usize {
        match self.format {
            FORMAT => Table::ALL.len(),
            // Parts of chunks could not be kept in the log.
            _ => Table::Kept as usize,
        }
    }

    /// Notes that it has the format of this version now.
    pub(crate) fn upgrade(&mut self) -> io::Result<()> {
        write_format(&self.path)?;
        self.format = FORMAT;
        tracing::info!(folder = %self.path.display(), "the data folder has a newer format now");
        Ok(())
    }

    /// Where the write-ahead log is.
    pub(crate) fn wal(&self) -> PathBuf {
        self.path.join(WAL_FOLDER)
    }

    /// Where fjall's files are.
    pub(crate) fn fjall(&self) -> PathBuf {
        self.path.join(FJALL_FOLDER)
    }
}

/// Whether nothing lies in the folder but what a first start leaves that got no further.
fn is_new(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOCK_FILE && name != mark::FILE && name != FORMAT_NEW {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let io = |source| OpenError::Io {
        folder: path.to_owned(),
        source,
    };
    let file = path.join(LOCK_FILE);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file)
        .map_err(io)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = lock.read_to_string(&mut holder);
            let holder = holder.trim();
            return Err(OpenError::InUse {
                folder: path.to_owned(),
                holder: if read.is_err() || holder.is_empty() {
                    "unknown"
                } else {
                    holder
                }
                .to_owned(),
            });
        }
        Err(TryLockError::Error(e)) => return Err(io(e)),
    }
    lock.set_len(0).map_err(io)?;
    lock.write_all(std::process::id().to_string().as_bytes())
        .map_err(io)?;
    Ok(lock)
}

fn read_format(path: &Path, text: &str) -> Result<u32, OpenError> {
    let number = text
        .strip_prefix("pointsman store ")
        .and_then(|rest| rest.trim().parse::<u32>().ok());
    match number {
        Some(known @ FORMAT_WITH_JOURNALS..=FORMAT) => Ok(known),
        Some(found) if found > FORMAT => Err(OpenError::NewerFormat {
            folder: path.to_owned(),
            found,
        }),
        _ => Err(OpenError::Foreign(path.to_owned())),
    }
}

/// Written under another name and renamed, so that the file is whole or not there.
fn write_format(path: &Path) -> io::Result<()> {
    let new = path.join(FORMAT_NEW);
    let mut file = File::create(&new)?;
    writeln!(file, "pointsman store {FORMAT}")?;
    file.sync_all()?;
    fs::rename(&new, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

/// Copies a folder, but for a lock. With `link_tables` the files of a folder `tables` are links where the system has
/// them: tables are never written again once they are whole.
pub(crate) fn copy(from: &Path, to: &Path, link_tables: bool) -> io::Result<()> {
    fs::create_dir(to)?;
    let links = link_tables && from.file_name().is_some_and(|name| name == "tables");
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to, link_tables)?;
        } else if entry.file_name() != LOCK_FILE && (!links || fs::hard_link(entry.path(), &to).is_err()) {
            fs::copy(entry.path(), &to)?;
            File::open(&to)?.sync_all()?;
        }
    }
    Ok(())
}

/// Free bytes on a folder's disk.
pub(crate) fn free_space(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Removes a folder, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A folder beside another, with this added to its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

/// Makes a new name in the folder above durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_marked_and_held_again_later() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(Folder::hold(&path).unwrap());
        assert_eq!(
            fs::read_to_string(path.join("FORMAT")).unwrap(),
            "pointsman store 3\n"
        );
        Folder::hold(&path).unwrap();
    }

    #[test]
    fn a_held_folder_is_refused_with_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _held = Folder::hold(dir.path()).unwrap();
        let error = Folder::hold(dir.path()).unwrap_err();
        let me = std::process::id().to_string();
        assert!(
            matches!(error, OpenError::InUse { ref holder, .. } if *holder == me),
            "{error}"
        );
    }

    #[test]
    fn a_folder_with_other_files_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photo.jpg"), b"x").unwrap();
        assert!(matches!(
            Folder::hold(dir.path()).unwrap_err(),
            OpenError::Foreign(_)
        ));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("FORMAT"), "pointsman store 4\n").unwrap();
        let error = Folder::hold(dir.path()).unwrap_err();
        assert!(
            matches!(error, OpenError::NewerFormat { found: 4, .. }),
            "{error}"
        );
    }
}
