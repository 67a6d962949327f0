//! Connecting to the broker that is meant.

use pointsman_sdk::{Client, ClientBuilder, Error};

use crate::error::CliError;
use crate::target::Target;

/// Runs client work to its end on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed("Start", format!("cannot start the runtime: {error}")))?;
    runtime.block_on(work)
}

/// Connects and authenticates.
pub(crate) async fn connect(target: &Target) -> Result<Client, CliError> {
    Ok(builder(target).connect().await?)
}

/// How to connect.
pub(crate) fn builder(target: &Target) -> ClientBuilder {
    let server = match target.host.contains(':') {
        true => format!("[{}]:{}", target.host, target.port),
        false => format!("{}:{}", target.host, target.port),
    };
    Client::builder()
        .name(concat!("pointsman-cli ", env!("CARGO_PKG_VERSION")))
        .server(server)
        .ca_file(&target.ca)
        .credentials(&target.user, &target.password)
        .vhost(&target.vhost)
}

impl From<Error> for CliError {
    fn from(error: Error) -> CliError {
        match error {
            Error::Refused(body) => body.into(),
            Error::Connect {
                server,
                message,
                hint,
            } => {
                let hint = if hint.is_empty() {
                    "is a broker running there? `pointsman serve` starts one"
                } else {
                    &hint
                };
                CliError::failed("Connect", format!("cannot connect to {server}: {message}")).hint(hint)
            }
            Error::Disconnected { .. } => CliError::failed("Disconnected", error.to_string()),
            Error::Timeout { .. } => CliError::failed("Timeout", error.to_string()),
            Error::TooLarge { .. } => CliError::failed("TooLarge", error.to_string()),
            Error::Ca { message } => CliError::usage(message).hint("give the broker's ca.pem with --ca"),
            other => CliError::failed("Client", other.to_string()),
        }
    }
}
