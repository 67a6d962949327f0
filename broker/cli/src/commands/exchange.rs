//! `pointsman exchange`: declare, look at and delete exchanges.

use bytes::Bytes;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use pointsman_protocol::admin::{ExchangeInfo, ExchangeKind, ExchangeSpec, Reply, Request};
use serde::Serialize;

use crate::commands::App;
use crate::error::CliError;
use crate::output::Row;

/// Declare, look at and delete exchanges.
#[derive(Debug, Subcommand)]
pub(crate) enum ExchangeCommand {
    /// Make an exchange; it may exist with the same properties
    Declare(DeclareArgs),
    /// List all exchanges of the vhost
    #[command(visible_alias = "ls")]
    List,
    /// Show one exchange
    Show {
        /// Its name
        name: String,
    },
    /// Delete an exchange and its bindings
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: String,
        /// Refuse when it has bindings
        #[arg(long)]
        if_unused: bool,
    },
}

/// What an exchange is declared with.
#[derive(Debug, Args)]
pub(crate) struct DeclareArgs {
    /// Its name
    name: String,
    /// How it routes; `router` needs --router [default: router with --router, or else direct]
    #[arg(short, long, value_parser = kind_parser())]
    kind: Option<ExchangeKind>,
    /// The router that decides, whose modules `pointsman router load` brings
    #[arg(long, value_name = "NAME")]
    router: Option<String>,
    /// Where messages go that no binding takes
    #[arg(long, value_name = "EXCHANGE")]
    alternate: Option<String>,
    /// Gone after a restart of the broker
    #[arg(long)]
    transient: bool,
    /// Deleted when its last binding goes
    #[arg(long)]
    auto_delete: bool,
}

/// The JSON form of an exchange.
#[derive(Debug, Serialize)]
pub(crate) struct ExchangeView {
    name: String,
    kind: &'static str,
    durable: bool,
    auto_delete: bool,
    alternate: Option<String>,
    router: Option<String>,
    bindings: u32,
}

pub(crate) async fn run(app: &App, command: ExchangeCommand) -> Result<(), CliError> {
    match command {
        ExchangeCommand::Declare(args) => declare(app, args).await,
        ExchangeCommand::List => app.output.list(&list(app, None).await?),
        ExchangeCommand::Show { name } => show(app, name).await,
        ExchangeCommand::Delete { name, if_unused } => {
            let sentence = format!("exchange `{name}` is deleted");
            app.change(Request::DeleteExchange { name, if_unused }, &sentence)
                .await
        }
    }
}

async fn declare(app: &App, args: DeclareArgs) -> Result<(), CliError> {
    let spec = spec(args)?;
    let sentence = format!("exchange `{}` of kind {} is there", spec.name, spec.kind.name());
    app.change(Request::DeclareExchange(spec), &sentence).await
}

async fn show(app: &App, name: String) -> Result<(), CliError> {
    let Some(view) = list(app, Some(name.clone())).await?.into_iter().next() else {
        let message = format!("there is no exchange `{name}`");
        return Err(CliError::failed("NotFound", message));
    };
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let none = || "none".to_owned();
    app.output.one(
        &view,
        &[
            ("name", view.name.clone()),
            ("kind", view.kind.to_owned()),
            ("durable", yes_no(view.durable)),
            ("auto-delete", yes_no(view.auto_delete)),
            ("alternate", view.alternate.clone().unwrap_or_else(none)),
            ("router", view.router.clone().unwrap_or_else(none)),
            ("bindings", view.bindings.to_string()),
        ],
    )
}

async fn list(app: &App, name: Option<String>) -> Result<Vec<ExchangeView>, CliError> {
    match app.ask(Request::ListExchanges(name), Bytes::new()).await? {
        Reply::Exchanges(exchanges) => Ok(exchanges.into_iter().map(ExchangeView::from).collect()),
        other => Err(CliError::unexpected(&other)),
    }
}

fn spec(args: DeclareArgs) -> Result<ExchangeSpec, CliError> {
    let implied = if args.router.is_some() {
        ExchangeKind::Router
    } else {
        ExchangeKind::Direct
    };
    let kind = args.kind.unwrap_or(implied);
    match (kind, &args.router) {
        (ExchangeKind::Router, None) => {
            return Err(CliError::usage("an exchange of kind router needs a router")
                .hint("name it with --router; `pointsman router list` shows those loaded"));
        }
        (ExchangeKind::Router, Some(_)) | (_, None) => {}
        (other, Some(_)) => {
            return Err(
                CliError::usage(format!("an exchange of kind {} takes no router", other.name()))
                    .hint("leave out --kind or --router"),
            );
        }
    }
    Ok(ExchangeSpec {
        name: args.name,
        kind,
        durable: !args.transient,
        auto_delete: args.auto_delete,
        alternate: args.alternate,
        router: args.router,
    })
}

fn kind_parser() -> impl TypedValueParser<Value = ExchangeKind> {
    PossibleValuesParser::new(ExchangeKind::NAMES.map(|(name, _)| name)).try_map(|name| {
        let known = ExchangeKind::NAMES.iter().find(|(known, _)| **known == name);
        known.map(|(_, kind)| *kind).ok_or("not a kind of exchange")
    })
}

impl From<ExchangeInfo> for ExchangeView {
    fn from(info: ExchangeInfo) -> ExchangeView {
        ExchangeView {
            name: info.spec.name,
            kind: info.spec.kind.name(),
            durable: info.spec.durable,
            auto_delete: info.spec.auto_delete,
            alternate: info.spec.alternate,
            router: info.spec.router,
            bindings: info.bindings,
        }
    }
}

impl Row for ExchangeView {
    const HEADINGS: &'static [&'static str] = &["name", "kind", "durable", "bindings", "router", "alternate"];

    fn cells(&self) -> Vec<String> {
        let name = if self.name.is_empty() {
            "(default)"
        } else {
            &self.name
        };
        vec![
            name.to_owned(),
            self.kind.to_owned(),
            if self.durable { "yes" } else { "no" }.to_owned(),
            self.bindings.to_string(),
            self.router.clone().unwrap_or_default(),
            self.alternate.clone().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parsed(args: &[&str]) -> Result<ExchangeSpec, CliError> {
        let line = ["pointsman", "exchange", "declare"].iter().chain(args);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Exchange(ExchangeCommand::Declare(args)) => spec(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exchange_is_direct_and_durable_unless_told_otherwise() {
        let spec = parsed(&["e"]).unwrap();
        assert_eq!((spec.kind, spec.durable), (ExchangeKind::Direct, true));
        assert!(!parsed(&["e", "--transient"]).unwrap().durable);
    }

    #[test]
    fn every_kind_can_be_named() {
        for (name, kind) in ExchangeKind::NAMES {
            let router: &[&str] = if kind == ExchangeKind::Router {
                &["--router", "r"]
            } else {
                &[]
            };
            let args = [&["e", "--kind", name], router].concat();
            assert_eq!(parsed(&args).unwrap().kind, kind);
        }
    }

    #[test]
    fn naming_a_router_makes_it_a_router_exchange() {
        assert_eq!(
            parsed(&["e", "--router", "r"]).unwrap().kind,
            ExchangeKind::Router
        );
        assert!(parsed(&["e", "--kind", "router"]).is_err());
        assert!(parsed(&["e", "--kind", "topic", "--router", "r"]).is_err());
    }
}
