//! `router new`: begin a router.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::commands::App;
use crate::error::CliError;
use crate::guest;

/// What to begin.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Folder to make; its last part is the router's name
    dir: PathBuf,
    /// Folder of the router SDK [default: wasm-routers/sdk of the source this program was built from]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

pub(crate) fn run(app: &App, args: &NewArgs) -> Result<(), CliError> {
    let Some(name) = args.dir.file_name().and_then(|name| name.to_str()) else {
        return Err(CliError::usage(format!(
            "{} has no name that a router can have",
            args.dir.display()
        )));
    };
    let parent = args
        .dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let made = guest::scaffold(parent, name, args.sdk.as_deref())?;
    let dir = made.dir.display();
    let sentence = format!(
        "{dir} holds a router that works: {}\ntest it:   cd {dir} && cargo test\nbuild it:  pointsman router build {dir}",
        made.files.join(", ")
    );
    let view = serde_json::json!({ "dir": made.dir, "files": made.files, "sdk": made.sdk });
    app.output.done(&view, &sentence)
}

impl From<guest::GuestError> for CliError {
    fn from(error: guest::GuestError) -> CliError {
        CliError::failed("Build", error.to_string()).hint(error.hint())
    }
}
