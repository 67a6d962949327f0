//! The commands, one file each, in the order `--help` lists them.

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, Request};
use pointsman_sdk::Client;

use crate::args::{Cli, Command, GlobalArgs};
use crate::connect;
use crate::error::CliError;
use crate::logs::{self, LogFormat};
use crate::output::Output;
use crate::target;

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod binding;
pub(crate) mod compile_module;
pub(crate) mod completions;
pub(crate) mod consume;
pub(crate) mod context;
pub(crate) mod demo;
pub(crate) mod exchange;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod publish;
pub(crate) mod queue;
pub(crate) mod repair;
pub(crate) mod restore;
pub(crate) mod router;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod verify;
pub(crate) mod vhost;

/// What every command has at hand.
pub(crate) struct App {
    pub(crate) global: GlobalArgs,
    pub(crate) output: Output,
}

impl App {
    /// Connects to the broker these arguments, the environment and the contexts file name.
    pub(crate) async fn client(&self) -> Result<Client, CliError> {
        let target = target::resolve(&self.global, variable)?;
        connect::connect(&target).await
    }

    /// The same for another vhost than these say.
    pub(crate) async fn client_of(&self, vhost: &str) -> Result<Client, CliError> {
        let mut target = target::resolve(&self.global, variable)?;
        vhost.clone_into(&mut target.vhost);
        connect::connect(&target).await
    }

    /// Makes one request on a connection of its own; a refusal is an error.
    pub(crate) async fn ask(&self, request: Request, body: Bytes) -> Result<Reply, CliError> {
        let client = self.client().await?;
        let reply = client.request(request, body).await;
        client.close().await;
        Ok(reply?)
    }

    /// Makes one request that is only answered with "done", and says so.
    pub(crate) async fn change(&self, request: Request, sentence: &str) -> Result<(), CliError> {
        match self.ask(request, Bytes::new()).await? {
            Reply::Done => self.output.done(&serde_json::json!({ "done": true }), sentence),
            other => Err(CliError::unexpected(&other)),
        }
    }
}

/// One variable of this process's environment; an empty one counts as absent.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs the command. Client commands take one thread: it is the fastest for one connection.
pub(crate) fn run(cli: Cli) -> Result<(), CliError> {
    let app = App {
        output: Output {
            format: cli.global.output,
        },
        global: cli.global,
    };
    match cli.command {
        Command::Serve(args) => serve::run(&app, args),
        Command::CompileModule(args) => compile_module::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Context(command) => context::run(&app, command),
        Command::Verify(args) => {
            logs::start(&log_filter(&app, logs::CLIENT_FILTER), LogFormat::Human)?;
            verify::run(&app, &args)
        }
        Command::Restore(args) => {
            logs::start(&log_filter(&app, logs::CLIENT_FILTER), LogFormat::Human)?;
            restore::run(&app, &args)
        }
        Command::Repair(args) => {
            logs::start(&log_filter(&app, logs::CLIENT_FILTER), LogFormat::Human)?;
            repair::run(&app, &args)
        }
        Command::Router(command) if command.is_offline() => router::run_offline(&app, command),
        command => {
            logs::start(&log_filter(&app, logs::CLIENT_FILTER), LogFormat::Human)?;
            connect::block_on(online(&app, command))
        }
    }
}

/// What to log: what the flag or the environment says, or else the command's own default.
pub(crate) fn log_filter(app: &App, default: &str) -> String {
    app.global
        .log
        .clone()
        .or_else(|| variable("POINTSMAN_LOG"))
        .unwrap_or_else(|| default.to_owned())
}

async fn online(app: &App, command: Command) -> Result<(), CliError> {
    match command {
        Command::Demo(args) => demo::run(app, args).await,
        Command::Status => status::run(app).await,
        Command::Exchange(command) => exchange::run(app, command).await,
        Command::Queue(command) => queue::run(app, command).await,
        Command::Binding(command) => binding::run(app, command).await,
        Command::Bind(args) => binding::bind(app, args).await,
        Command::Unbind(args) => binding::unbind(app, args).await,
        Command::Vhost(command) => vhost::run(app, command).await,
        Command::Publish(args) => publish::run(app, args).await,
        Command::Consume(args) => consume::run(app, args).await,
        Command::Bench(args) => bench::run(app, args).await,
        Command::Router(command) => router::run(app, command).await,
        Command::Export(args) => export::run(app, args).await,
        Command::Import(args) => import::run(app, args).await,
        Command::Backup(args) => backup::run(app, args).await,
        Command::Serve(_)
        | Command::CompileModule(_)
        | Command::Completions(_)
        | Command::Context(_)
        | Command::Restore(_)
        | Command::Verify(_)
        | Command::Repair(_) => {
            unreachable!("these run without a connection")
        }
    }
}
