//! A look at fjall's files before fjall opens them, because it takes a tree whose manifest is gone for a new one, and
//! removes files that no manifest names.

use std::fs;
use std::io;
use std::path::Path;

use twox_hash::XxHash3_128;

use crate::error::{Damage, Trouble};

/// Checks that every tree of an established store with so many keyspaces of ours has its manifest, and that the manifest is what was written.
///
/// lsm-tree 3.1 (`src/version/persist.rs`) keeps in `current` the number of the manifest (u64), its XXH3-128 and the
/// kind of checksum (0), little-endian; the manifest is the file `v` with that number.
pub(crate) fn check(fjall: &Path, trees: usize) -> Result<(), Trouble> {
    let read = |path: &Path| read(fjall, path);
    read(&fjall.join("version"))?;
    // fjall's own tree and ours, in the order they were made.
    for tree in 0..=trees {
        let folder = fjall.join("keyspaces").join(tree.to_string());
        let current = read(&folder.join("current"))?;
        let damaged = |path: &Path| {
            Trouble::Damage(Damage::File {
                name: name(fjall, path),
            })
        };
        let number = current.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let checksum = current
            .get(8..24)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u128::from_le_bytes);
        let (Some(number), Some(checksum), Some(0), 25) = (number, checksum, current.last(), current.len())
        else {
            return Err(damaged(&folder.join("current")));
        };
        let path = folder.join(format!("v{number}"));
        if XxHash3_128::oneshot(&read(&path)?) != checksum {
            return Err(damaged(&path));
        }
    }
    Ok(())
}

/// In a copy, makes anew what is missing and can be made of other files: the version marker, and for each tree the file
/// that names its newest manifest. A manifest that is gone or changed cannot be made anew, and is an error.
pub(crate) fn rebuild(fjall: &Path, trees: usize) -> Result<(), Trouble> {
    fs::write(fjall.join("version"), b"FJL\x03")?;
    for tree in 0..=trees {
        let folder = fjall.join("keyspaces").join(tree.to_string());
        if folder.join("current").exists() {
            continue;
        }
        let Some(number) = newest(&folder)? else {
            let name = name(fjall, &folder.join("current"));
            return Err(Damage::FileMissing { name }.into());
        };
        let checksum = XxHash3_128::oneshot(&read(fjall, &folder.join(format!("v{number}")))?);
        let bytes = [number.to_le_bytes().as_slice(), &checksum.to_le_bytes(), &[0]].concat();
        fs::write(folder.join("current"), bytes)?;
    }
    check(fjall, trees)
}

/// The highest number of a manifest in a tree's folder.
fn newest(folder: &Path) -> io::Result<Option<u64>> {
    let mut newest = None;
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_prefix('v')?.parse().ok());
        newest = newest.max(number);
    }
    Ok(newest)
}

fn read(fjall: &Path, path: &Path) -> Result<Vec<u8>, Trouble> {
    fs::read(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Trouble::Damage(Damage::FileMissing {
            name: name(fjall, path),
        }),
        _ => Trouble::Io(e),
    })
}

fn name(fjall: &Path, path: &Path) -> String {
    path.strip_prefix(fjall).unwrap_or(path).display().to_string()
}
