//! Programs a newcomer runs in order, each against a broker that `pointsman serve` started:
//!
//! ```sh
//! cargo run -p pointsman-examples --example 01_publish
//! ```
//!
//! 1. `01_publish`: an exchange, a queue, a binding; messages and what the broker says of them.
//! 2. `02_consume`: deliveries, settling them, prefetch.
//! 3. `03_router`: a Wasm module decides, and explains itself.
//! 4. `04_swap`: a new version of the router while messages flow.
//! 5. `05_throughput`: batches, and how fast they are.
//! 6. `06_stream`: messages that stay, readers with a place of their own.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use etcetera::BaseStrategy;
use pointsman_sdk::Client;
use serde::Deserialize;

/// What the examples return: any error, shown as its sentence.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Connects to the broker at the address in `POINTSMAN_URL`, or else to the one that the first `pointsman serve` on
/// this machine wrote into the contexts file.
///
/// # Errors
/// When there is neither, or the broker cannot be reached.
pub async fn connect() -> Result<Client> {
    if let Ok(address) = std::env::var("POINTSMAN_URL") {
        return Ok(Client::connect(&address).await?);
    }
    let file = contexts_file()?;
    let text = std::fs::read_to_string(&file).map_err(|error| {
        format!(
            "{}: {error}; run `pointsman serve` first, or set POINTSMAN_URL=pointsman://user:password@host?ca=FILE",
            file.display()
        )
    })?;
    let mut contexts: Contexts = toml::from_str(&text)?;
    let name = contexts.current.unwrap_or("local".into());
    let context = contexts
        .contexts
        .remove(&name)
        .ok_or_else(|| format!("{} has no context {name:?}", file.display()))?;
    let builder = Client::builder()
        .server(context.server)
        .ca_file(context.ca)
        .credentials(context.user, context.password)
        .name("pointsman-examples");
    Ok(builder.connect().await?)
}

fn contexts_file() -> Result<PathBuf> {
    if let Ok(file) = std::env::var("POINTSMAN_CONTEXTS_FILE") {
        return Ok(file.into());
    }
    let folders = etcetera::choose_base_strategy()?;
    Ok(folders.config_dir().join("pointsman").join("contexts.toml"))
}

/// The part of the contexts file that is needed here.
#[derive(Deserialize)]
struct Contexts {
    current: Option<String>,
    contexts: std::collections::HashMap<String, Context>,
}

#[derive(Deserialize)]
struct Context {
    server: String,
    ca: PathBuf,
    user: String,
    password: String,
}
