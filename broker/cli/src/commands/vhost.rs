//! `pointsman vhost`: declare, list and delete vhosts.

use bytes::Bytes;
use clap::Subcommand;
use pointsman_protocol::admin::{Reply, Request};
use serde::Serialize;

use crate::commands::App;
use crate::error::CliError;
use crate::output::Row;

/// Declare, list and delete vhosts.
#[derive(Debug, Subcommand)]
pub(crate) enum VhostCommand {
    /// Make a vhost; it may exist
    Declare {
        /// Its name
        name: String,
    },
    /// List all vhosts
    #[command(visible_alias = "ls")]
    List,
    /// Delete an empty vhost
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: String,
    },
}

/// The JSON form of a vhost.
#[derive(Debug, Serialize)]
struct VhostView {
    name: String,
}

pub(crate) async fn run(app: &App, command: VhostCommand) -> Result<(), CliError> {
    match command {
        VhostCommand::Declare { name } => {
            let sentence = format!("vhost `{name}` is there");
            app.change(Request::DeclareVhost(name), &sentence).await
        }
        VhostCommand::List => match app.ask(Request::ListVhosts, Bytes::new()).await? {
            Reply::Names(names) => {
                let rows: Vec<VhostView> = names.into_iter().map(|name| VhostView { name }).collect();
                app.output.list(&rows)
            }
            other => Err(CliError::unexpected(&other)),
        },
        VhostCommand::Delete { name } => {
            let sentence = format!("vhost `{name}` is deleted");
            app.change(Request::DeleteVhost(name), &sentence).await
        }
    }
}

impl Row for VhostView {
    const HEADINGS: &'static [&'static str] = &["name"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
