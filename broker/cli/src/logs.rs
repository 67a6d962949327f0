//! Log output on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::error::CliError;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people; in colour on a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What a broker logs unless told otherwise.
pub(crate) const SERVE_FILTER: &str = "info";
/// What a client command logs unless told otherwise: that the connection was lost and is sought again. Errors that
/// end the command are told without logs.
pub(crate) const CLIENT_FILTER: &str = "pointsman_sdk=info";

/// Starts logging for this process. `filter` is a level or `crate=level` pairs.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), CliError> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        CliError::usage(format!("`{filter}` is not a log filter: {error}"))
            .hint("write a level (error, warn, info, debug, trace, off) or pairs such as pointsman_server=debug,quinn=warn")
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process, as a test may do, keeps the first.
    let _ = match format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().with_ansi(false).try_init(),
    };
    Ok(())
}
