//! `pointsman export`: what is declared, as a file.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use pointsman_protocol::admin::{QueueSpec, Reply, Request, RouterInfo};
use pointsman_sdk::Client;

use crate::commands::App;
use crate::definitions::{Definitions, Form, Router, Vhost};
use crate::error::CliError;
use crate::output::{note, write_text};
use crate::{human, values};

/// Names that start so are the broker's own.
const RESERVED_PREFIX: &str = "pointsman.";

/// Where definitions are written.
#[derive(Debug, Args)]
#[command(
    after_help = "Of all vhosts: exchanges, bindings, durable and transient queues, and the active version of each \
                  router with its module.\nNot exported: messages, users, exclusive queues, and versions of routers that \
                  are not active."
)]
pub(crate) struct ExportArgs {
    /// A file that ends in .json or .toml; left out, JSON on standard output
    file: Option<PathBuf>,
}

pub(crate) async fn run(app: &App, args: ExportArgs) -> Result<(), CliError> {
    let form = args.file.as_deref().map_or(Ok(Form::Json), Form::of)?;
    let client = app.client().await?;
    let names = client.vhosts().await;
    client.close().await;
    let mut vhosts = Vec::new();
    for name in names? {
        let client = app.client_of(&name).await?;
        let vhost = export(&client, name).await;
        client.close().await;
        vhosts.push(vhost?);
    }
    let count = vhosts.len() as u64;
    let text = Definitions::new(vhosts).write(form)?;
    let Some(file) = args.file else {
        return write_text(&text);
    };
    fs::write(&file, text).map_err(|error| CliError::file("write", &file, &error))?;
    let sentence = format!(
        "the definitions of {} are in {}",
        human::counted(count, "vhost"),
        file.display()
    );
    app.output
        .done(&serde_json::json!({ "file": file, "vhosts": count }), &sentence)
}

async fn export(client: &Client, name: String) -> Result<Vhost, CliError> {
    let mut vhost = Vhost {
        name,
        ..Vhost::default()
    };
    for info in client.routers().await? {
        match info.active {
            Some(version) => vhost.routers.push(router(client, info, version).await?),
            None => note(&format!(
                "router `{}` has no active version and is not exported",
                info.name
            )),
        }
    }
    let queues = client.queues().await?.into_iter().map(|info| info.spec);
    // A quarantine queue comes with its exchange.
    let is_kept = |spec: &QueueSpec| !spec.exclusive && !spec.name.starts_with(RESERVED_PREFIX);
    vhost.queues = queues.filter(is_kept).map(Into::into).collect();
    let exchanges = client.exchanges().await?.into_iter();
    vhost.exchanges = exchanges.map(|info| info.spec.into()).collect();
    let bindings = client.bindings().await?.into_iter();
    vhost.bindings = bindings.map(Into::into).collect();
    Ok(vhost)
}

async fn router(client: &Client, info: RouterInfo, version: u32) -> Result<Router, CliError> {
    let name = info.name;
    let module = module(client, &name, version).await?;
    let active = info.versions.iter().find(|known| known.version == version);
    Ok(Router {
        name,
        config: active.map_or_else(String::new, |active| values::base64(&active.config)),
        module: values::base64(&module),
    })
}

/// The module of a router's version.
pub(crate) async fn module(client: &Client, name: &str, version: u32) -> Result<Vec<u8>, CliError> {
    let name = name.to_owned();
    let request = Request::RouterModule { name, version };
    match client.request(request, Bytes::new()).await? {
        Reply::RouterModule(module) => Ok(module),
        other => Err(CliError::unexpected(&other)),
    }
}
