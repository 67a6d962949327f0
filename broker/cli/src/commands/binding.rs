//! `pointsman binding`, and `bind` and `unbind` for short.

use bytes::Bytes;
use clap::{Args, Subcommand};
use pointsman_protocol::admin::{Argument, BindingSpec, Destination, Reply, Request};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::commands::App;
use crate::error::CliError;
use crate::output::Row;
use crate::values::{self, Pair};

/// Declare, look at and delete bindings.
#[derive(Debug, Subcommand)]
pub(crate) enum BindingCommand {
    /// Bind a queue or exchange to an exchange; the binding may exist
    Declare(BindArgs),
    /// List the bindings of the vhost
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show the bindings between an exchange and a queue or exchange
    Show {
        /// The exchange messages come from
        source: String,
        /// The queue or exchange they go to
        destination: String,
    },
    /// Remove a binding
    #[command(visible_alias = "rm")]
    Delete(BindArgs),
}

/// Which binding.
#[derive(Debug, Args)]
pub(crate) struct BindArgs {
    /// The exchange messages come from
    source: String,
    /// The queue they go to, or with --to-exchange the exchange
    destination: String,
    /// The binding key: a routing key, a topic pattern, a weight or a router's target name, by the exchange's kind
    #[arg(short, long, default_value = "", hide_default_value = true)]
    key: String,
    /// DESTINATION is an exchange
    #[arg(long, visible_alias = "exchange-to-exchange")]
    to_exchange: bool,
    /// An argument, such as region=eu or x-match=any; whole numbers, true and false are taken as such
    #[arg(short, long = "arg", value_name = "NAME=VALUE", value_parser = values::pair)]
    arguments: Vec<Pair>,
}

/// Which bindings to list.
#[derive(Debug, Default, Args)]
pub(crate) struct ListArgs {
    /// Only those from this exchange
    #[arg(long, value_name = "EXCHANGE")]
    source: Option<String>,
    /// Only those to this queue or exchange
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
}

/// The JSON form of a binding.
#[derive(Debug, Serialize)]
pub(crate) struct BindingView {
    source: String,
    destination: String,
    destination_kind: &'static str,
    key: String,
    arguments: Map<String, Json>,
}

pub(crate) async fn run(app: &App, command: BindingCommand) -> Result<(), CliError> {
    match command {
        BindingCommand::Declare(args) => bind(app, args).await,
        BindingCommand::List(filter) => app.output.list(&list(app, &filter).await?),
        BindingCommand::Show { source, destination } => {
            let missing = format!("nothing binds `{destination}` to `{source}`");
            let filter = ListArgs {
                source: Some(source),
                destination: Some(destination),
            };
            match list(app, &filter).await?.as_slice() {
                [] => Err(CliError::failed("NotFound", missing).hint("`pointsman binding list` shows all")),
                found => app.output.list(found),
            }
        }
        BindingCommand::Delete(args) => unbind(app, args).await,
    }
}

/// Makes a binding.
pub(crate) async fn bind(app: &App, args: BindArgs) -> Result<(), CliError> {
    let sentence = format!("`{}` is bound to `{}`", args.destination, args.source);
    app.change(Request::Bind(spec(args)?), &sentence).await
}

/// Removes a binding.
pub(crate) async fn unbind(app: &App, args: BindArgs) -> Result<(), CliError> {
    let sentence = format!("`{}` is no longer bound to `{}`", args.destination, args.source);
    app.change(Request::Unbind(spec(args)?), &sentence).await
}

async fn list(app: &App, filter: &ListArgs) -> Result<Vec<BindingView>, CliError> {
    let wanted = |filter: &Option<String>, name: &str| filter.as_deref().is_none_or(|wanted| wanted == name);
    match app.ask(Request::ListBindings, Bytes::new()).await? {
        Reply::Bindings(bindings) => Ok(bindings
            .into_iter()
            .map(BindingView::from)
            .filter(|b| wanted(&filter.source, &b.source) && wanted(&filter.destination, &b.destination))
            .collect()),
        other => Err(CliError::unexpected(&other)),
    }
}

fn spec(args: BindArgs) -> Result<BindingSpec, CliError> {
    let mut arguments = args
        .arguments
        .iter()
        .map(Pair::argument)
        .collect::<Result<Vec<(String, Argument)>, CliError>>()?;
    arguments.sort();
    let destination = if args.to_exchange {
        Destination::Exchange(args.destination)
    } else {
        Destination::Queue(args.destination)
    };
    Ok(BindingSpec {
        source: args.source,
        destination,
        key: args.key,
        arguments,
    })
}

impl From<BindingSpec> for BindingView {
    fn from(spec: BindingSpec) -> BindingView {
        let (destination, destination_kind) = match spec.destination {
            Destination::Queue(name) => (name, "queue"),
            Destination::Exchange(name) => (name, "exchange"),
        };
        let arguments = spec
            .arguments
            .into_iter()
            .map(|(name, value)| (name, values::argument_json(value)));
        BindingView {
            source: spec.source,
            destination,
            destination_kind,
            key: spec.key,
            arguments: arguments.collect(),
        }
    }
}

impl BindingView {
    /// The binding in a few words, for `publish --explain`.
    pub(crate) fn sentence(&self) -> String {
        match self.key.as_str() {
            "" => format!("{} {}", self.destination_kind, self.destination),
            key => format!("{} {} (key {key})", self.destination_kind, self.destination),
        }
    }
}

impl Row for BindingView {
    const HEADINGS: &'static [&'static str] = &["source", "destination", "kind", "key", "arguments"];

    fn cells(&self) -> Vec<String> {
        let arguments: Vec<String> = self
            .arguments
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        vec![
            if self.source.is_empty() {
                "(default)".to_owned()
            } else {
                self.source.clone()
            },
            self.destination.clone(),
            self.destination_kind.to_owned(),
            self.key.clone(),
            arguments.join(" "),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parsed(args: &[&str]) -> Result<BindingSpec, CliError> {
        match Cli::try_parse_from(["pointsman", "bind"].iter().chain(args))
            .unwrap()
            .command
        {
            Command::Bind(args) => spec(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_destination_is_a_queue_unless_it_is_said_to_be_an_exchange() {
        assert_eq!(
            parsed(&["e", "q"]).unwrap().destination,
            Destination::Queue("q".into())
        );
        for flag in ["--to-exchange", "--exchange-to-exchange"] {
            assert_eq!(
                parsed(&["e", "x", flag]).unwrap().destination,
                Destination::Exchange("x".into())
            );
        }
    }

    #[test]
    fn arguments_are_sorted_and_typed() {
        let spec = parsed(&[
            "e",
            "q",
            "--arg",
            "x-match=any",
            "--arg",
            "n=5",
            "--arg",
            "b=true",
        ])
        .unwrap();
        let expected = [
            ("b".to_owned(), Argument::Bool(true)),
            ("n".to_owned(), Argument::Int(5)),
            ("x-match".to_owned(), Argument::Str("any".into())),
        ];
        assert_eq!(spec.arguments, expected);
    }

    #[test]
    fn a_fraction_cannot_be_a_binding_argument() {
        assert!(parsed(&["e", "q", "--arg", "n=0.5"]).is_err());
        assert!(parsed(&["e", "q", "--arg", "n=\"0.5\""]).is_ok());
    }

    #[test]
    fn a_binding_is_shown_with_its_arguments() {
        let view = BindingView::from(parsed(&["e", "q", "--key", "k", "--arg", "n=5"]).unwrap());
        assert_eq!(view.cells(), ["e", "q", "queue", "k", "n=5"]);
        assert_eq!(view.sentence(), "queue q (key k)");
    }
}
