//! `pointsman backup`: a consistent copy of a running broker's data folder, on this machine.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use pointsman_protocol::admin::{BackupFile, Reply, Request};
use pointsman_protocol::limits::BACKUP_PART_MAX;
use pointsman_sdk::Client;
use serde::Serialize;

use crate::commands::{App, variable};
use crate::error::CliError;
use crate::progress::Progress;
use crate::{connect, human, target};

/// Longest the broker may take to make its copy.
const COPY_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Pieces that are asked for at once, so that the way to the broker and back does not slow the copy.
const IN_FLIGHT: usize = 8;

/// Where the backup goes.
#[derive(Debug, Args)]
#[command(
    after_help = "Publishing and consuming go on. The backup is a data folder: `pointsman verify --data-dir DIR` looks \
                  through it, `pointsman restore DIR` makes another of it.\nIt holds messages and private keys: keep it \
                  as safe as the broker's own data folder."
)]
pub(crate) struct BackupArgs {
    /// A folder that is empty or not there yet
    dir: PathBuf,
}

/// The JSON form of what was done.
#[derive(Serialize)]
struct BackupView {
    dir: PathBuf,
    files: usize,
    bytes: u64,
}

pub(crate) async fn run(app: &App, args: BackupArgs) -> Result<(), CliError> {
    let dir = std::path::absolute(&args.dir).map_err(|error| CliError::file("find", &args.dir, &error))?;
    let target = target::resolve(&app.global, variable)?;
    let connecting = connect::builder(&target).request_timeout(COPY_PATIENCE);
    let client = connecting.connect().await?;
    let partial = prepare(&dir, "a backup")?;
    let done = fetch_all(app, &client, &partial).await;
    if done.is_err() {
        // A backup is whole or not there.
        let _ = fs::remove_dir_all(&partial);
    }
    // The broker removes its copy when the connection ends, too.
    let _ = client.request(Request::BackupEnd, Bytes::new()).await;
    client.close().await;
    let files = done?;
    finish(&partial, &dir)?;
    let view = BackupView {
        bytes: files.iter().map(|file| file.len).sum(),
        files: files.len(),
        dir,
    };
    let sentence = format!(
        "the backup is in {}: {} in {}",
        view.dir.display(),
        human::bytes(view.bytes),
        human::counted(view.files as u64, "file"),
    );
    app.output.done(&view, &sentence)
}

/// Makes the folder beside `dir` in which what becomes `dir` is until it is whole; `what` overwrites nothing.
pub(crate) fn prepare(dir: &Path, what: &str) -> Result<PathBuf, CliError> {
    // Removes an empty folder only.
    if let Err(error) = fs::remove_dir(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(
            CliError::usage(format!("{} exists and is not an empty folder", dir.display()))
                .hint(format!("{what} overwrites nothing; name another folder")),
        );
    }
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = dir.with_file_name(name);
    let made = match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::DirBuilder::new().recursive(true).mode(0o700).create(&partial),
    };
    made.map_err(|error| CliError::file("make", &partial, &error))?;
    Ok(partial)
}

/// Gives the whole folder its name.
pub(crate) fn finish(partial: &Path, dir: &Path) -> Result<(), CliError> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::rename(partial, dir)
        .and_then(|()| File::open(parent.unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|error| CliError::file("make", dir, &error))
}

async fn fetch_all(app: &App, client: &Client, to: &Path) -> Result<Vec<BackupFile>, CliError> {
    let mut progress = Progress::new(app.output, "the broker copies", None);
    let files = match client.request(Request::BackupBegin, Bytes::new()).await? {
        Reply::Backup(files) => files,
        other => return Err(CliError::unexpected(&other)),
    };
    drop(progress);
    let total: u64 = files.iter().map(|file| file.len).sum();
    progress = Progress::new(app.output, "bytes fetched", Some(total));
    for (number, file) in files.iter().enumerate() {
        fetch(
            client,
            number as u32,
            file,
            &within(to, &file.path)?,
            &mut progress,
        )
        .await?;
    }
    Ok(files)
}

/// A path of the backup below `to`. What a broker says must not reach out of it.
fn within(to: &Path, path: &str) -> Result<PathBuf, CliError> {
    let is_below = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !is_below {
        let message = format!("the broker named a file `{path}`, which is outside of the backup");
        return Err(CliError::failed("UnexpectedReply", message));
    }
    Ok(to.join(path))
}

async fn fetch(
    client: &Client,
    number: u32,
    file: &BackupFile,
    to: &Path,
    progress: &mut Progress,
) -> Result<(), CliError> {
    let cannot = |error: io::Error| CliError::file("write", to, &error);
    if let Some(folder) = to.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(cannot)?;
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(to).map_err(cannot)?;
    // Pieces come without the zeros at their end.
    written.set_len(file.len).map_err(cannot)?;
    let part = u64::from(BACKUP_PART_MAX);
    let mut offset = 0;
    while offset < file.len {
        let offsets: Vec<u64> = (offset..file.len)
            .step_by(part as usize)
            .take(IN_FLIGHT)
            .collect();
        let parts = offsets.iter().map(|&offset| {
            let request = Request::BackupRead { file: number, offset };
            client.request(request, Bytes::new())
        });
        for (at, reply) in offsets.iter().zip(futures_util::future::join_all(parts).await) {
            let bytes = match reply? {
                Reply::BackupPart(bytes) => bytes,
                other => return Err(CliError::unexpected(&other)),
            };
            written.write_all_at(&bytes, *at).map_err(cannot)?;
            progress.add(part.min(file.len - at));
        }
        offset += part * offsets.len() as u64;
    }
    written.sync_all().map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_outside_of_the_backup_is_refused() {
        let to = Path::new("/backup");
        assert_eq!(within(to, "store/mark").unwrap(), Path::new("/backup/store/mark"));
        for path in ["", "/etc/passwd", "../x", "store/../../x"] {
            assert!(within(to, path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("photo.jpg"), "x").unwrap();
        assert!(prepare(dir.path(), "a backup").is_err());
        assert!(dir.path().join("photo.jpg").exists());
    }
}
