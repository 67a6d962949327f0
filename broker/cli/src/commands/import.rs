//! `pointsman import`: declare what a file says.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use pointsman_protocol::admin::RouterInfo;
use pointsman_sdk::Client;
use serde::Serialize;

use crate::commands::{App, export};
use crate::definitions::{self, Definitions, Exchange, Form, Router, Vhost};
use crate::error::CliError;
use crate::human;

/// What is imported.
#[derive(Debug, Args)]
#[command(
    after_help = "What is there already and the same stays as it is, so that importing twice is importing once.\nWhat is \
                  there and different stays as it is too, and is named as a conflict."
)]
pub(crate) struct ImportArgs {
    /// A file that `pointsman export` wrote, ending in .json or .toml
    file: PathBuf,
}

/// The JSON form of what was done.
#[derive(Debug, Default, Serialize)]
struct ImportView {
    /// Declared, whether or not it was there and the same.
    declared: u64,
    conflicts: Vec<Conflict>,
}

/// Something that is there and different, or that the broker refuses.
#[derive(Debug, Serialize)]
struct Conflict {
    vhost: String,
    kind: &'static str,
    name: String,
    message: String,
}

pub(crate) async fn run(app: &App, args: ImportArgs) -> Result<(), CliError> {
    let file = &args.file;
    let form = Form::of(file)?;
    let text = fs::read_to_string(file).map_err(|error| CliError::file("read", file, &error))?;
    let definitions = Definitions::read(&text, form)
        .map_err(|error| CliError::usage(format!("{} cannot be read: {error}", file.display())))?;
    let mut view = ImportView::default();
    for vhost in &definitions.vhosts {
        let client = app.client().await?;
        let declared = client.declare_vhost(vhost.name.clone()).await;
        client.close().await;
        view.take(
            &vhost.name,
            "vhost",
            &vhost.name,
            declared.map_err(CliError::from),
        )?;
        let client = app.client_of(&vhost.name).await?;
        let imported = import(&client, vhost, &mut view).await;
        client.close().await;
        imported?;
    }
    let done = format!("{} declared", human::counted(view.declared, "definition"));
    if view.conflicts.is_empty() {
        return app.output.done(&view, &done);
    }
    for conflict in &view.conflicts {
        let Conflict {
            vhost,
            kind,
            name,
            message,
        } = conflict;
        app.output.say(&format!(
            "conflict: {kind} `{name}` of vhost `{vhost}`: {message}"
        ))?;
    }
    app.output.done(&view, &done)?;
    let message = human::counted(view.conflicts.len() as u64, "definition");
    Err(
        CliError::failed("Conflict", format!("{message} could not be declared"))
            .hint("what is there stays as it is; delete it, or change the file"),
    )
}

/// In the order in which definitions name each other.
async fn import(client: &Client, vhost: &Vhost, view: &mut ImportView) -> Result<(), CliError> {
    let known = client.routers().await?;
    for router in &vhost.routers {
        let loaded = load(client, router, &known).await;
        view.take(&vhost.name, "router", &router.name, loaded)?;
    }
    for queue in &vhost.queues {
        let declared = match queue.spec() {
            Ok(spec) => client.declare_queue(spec).await.map(drop).map_err(CliError::from),
            Err(problem) => Err(CliError::usage(problem)),
        };
        view.take(&vhost.name, "queue", &queue.name, declared)?;
    }
    for exchange in in_order(&vhost.exchanges) {
        let declared = match exchange.spec() {
            Ok(spec) => client.declare_exchange(spec).await.map_err(CliError::from),
            Err(problem) => Err(CliError::usage(problem)),
        };
        view.take(&vhost.name, "exchange", &exchange.name, declared)?;
    }
    for binding in &vhost.bindings {
        let bound = match binding.spec() {
            Ok(spec) => client.bind(spec).await.map_err(CliError::from),
            Err(problem) => Err(CliError::usage(problem)),
        };
        let to = binding.queue.as_ref().or(binding.exchange.as_ref());
        let to = to.map_or("", String::as_str);
        let name = format!("{} -> {to} ({})", binding.source, binding.key);
        view.take(&vhost.name, "binding", &name, bound)?;
    }
    Ok(())
}

/// Exchanges behind their alternates, as far as the file has these.
fn in_order(exchanges: &[Exchange]) -> Vec<&Exchange> {
    let mut ordered: Vec<&Exchange> = Vec::new();
    let mut left: Vec<&Exchange> = exchanges.iter().collect();
    while !left.is_empty() {
        let named: BTreeSet<&str> = left.iter().map(|exchange| exchange.name.as_str()).collect();
        let waits = |exchange: &&Exchange| {
            let alternate = exchange.alternate.as_deref();
            alternate.is_some_and(|alternate| alternate != exchange.name && named.contains(alternate))
        };
        let (waiting, ready): (Vec<_>, Vec<_>) = left.iter().copied().partition(waits);
        // Exchanges that are each other's alternates are for the broker to refuse.
        let stuck = ready.is_empty();
        ordered.extend(if stuck { &waiting } else { &ready });
        left = if stuck { Vec::new() } else { waiting };
    }
    ordered
}

/// Loads and activates a router that is not there. One that is there must do the same.
async fn load(client: &Client, router: &Router, known: &[RouterInfo]) -> Result<(), CliError> {
    let module = definitions::bytes(&router.module).map_err(CliError::usage)?;
    let config = definitions::bytes(&router.config).map_err(CliError::usage)?;
    let Some(info) = known.iter().find(|info| info.name == router.name) else {
        let loaded = client
            .router_load(router.name.clone(), module, config, true)
            .await;
        return Ok(loaded.map(drop)?);
    };
    let active = info.versions.iter().find(|version| version.active);
    if let Some(active) = active.filter(|active| active.config == config)
        && export::module(client, &router.name, active.version).await? == module
    {
        return Ok(());
    }
    Err(CliError::failed(
        "Conflict",
        "its active version has another module or configuration",
    ))
}

impl ImportView {
    /// Counts what was declared. A refusal becomes a conflict; anything else ends the import.
    fn take(
        &mut self,
        vhost: &str,
        kind: &'static str,
        name: &str,
        result: Result<(), CliError>,
    ) -> Result<(), CliError> {
        match result {
            Ok(()) => self.declared += 1,
            Err(CliError::Failed(problem)) if problem.code == "Disconnected" || problem.code == "Timeout" => {
                return Err(CliError::Failed(problem));
            }
            Err(CliError::Failed(problem) | CliError::Usage(problem)) => self.conflicts.push(Conflict {
                vhost: vhost.to_owned(),
                kind,
                name: name.to_owned(),
                message: problem.message,
            }),
            Err(CliError::OutputClosed) => return Err(CliError::OutputClosed),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pointsman_protocol::admin::ExchangeSpec;

    use super::*;

    #[test]
    fn an_exchange_comes_behind_its_alternate() {
        let exchange = |name: &str, alternate: Option<&str>| -> Exchange {
            let mut spec = ExchangeSpec::direct(name);
            spec.alternate = alternate.map(str::to_owned);
            spec.into()
        };
        let all = [
            exchange("a", Some("b")),
            exchange("b", Some("c")),
            exchange("c", None),
            exchange("d", Some("elsewhere")),
        ];
        let names: Vec<_> = in_order(&all)
            .iter()
            .map(|exchange| exchange.name.as_str())
            .collect();
        assert_eq!(names, ["c", "d", "b", "a"]);
        assert_eq!(
            in_order(&[exchange("a", Some("b")), exchange("b", Some("a"))]).len(),
            2
        );
    }
}
