//! `pointsman demo`: the broker at work, on orders or on JSON Lines of one's own, with every count checked.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use clap::Args;
use pointsman_sdk::{BindingSpec, Client, ExchangeSpec, QueueSpec};

use crate::commands::{App, router};
use crate::connect;
use crate::contexts::{Context, Contexts};
use crate::error::CliError;
use crate::human;
use crate::target;

mod broker;
mod plan;
mod report;
mod traffic;

use broker::ChildBroker;
use plan::Plan;
use report::Report;

/// Name of the exchange and of its router.
const ORDERS: &str = "orders";

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A JSON Lines file of your own instead of the orders; needs --key
    #[arg(long, value_name = "FILE", requires = "key")]
    input: Option<PathBuf>,
    /// The field of your file to route by, with dots into objects; its most frequent values get queues of their own
    #[arg(long, value_name = "FIELD", requires = "input")]
    key: Option<String>,
    /// Keep the broker's data in this new folder, so that you can go on with it; otherwise it is removed
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The content router, compiled, instead of building it
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
}

pub(crate) async fn run(app: &App, args: DemoArgs) -> Result<(), CliError> {
    let plan = match (&args.input, &args.key) {
        (Some(input), Some(key)) => Plan::of_file(input, key)?,
        _ => Plan::of_orders(&source_folder()?.join("examples/data"))?,
    };
    let module = match &args.module {
        Some(file) => router::read_module(file)?,
        None => router::build_module(app, &source_folder()?.join("wasm-routers/content"))?,
    };
    let folder = Folder::new(args.data_dir.as_deref())?;
    let broker = ChildBroker::start(folder.path(), app).await?;
    app.output.say(&format!(
        "a broker listens on {} and keeps its data in {}",
        broker.listen(),
        folder.path().display()
    ))?;
    let outcome = show(app, &broker, &plan, module).await;
    let context = broker.context_at_default_port();
    broker.stop().await?;
    let report = outcome?;
    report.print(app, &next_commands(app, &folder, context, &plan)?)?;
    report.verdict()
}

/// Both rounds against a running broker.
async fn show(app: &App, broker: &ChildBroker, plan: &Plan, module: Bytes) -> Result<Report, CliError> {
    let client = connect::connect(&broker.target()?).await?;
    let shown = async {
        let start = Instant::now();
        let first = client
            .router_load(ORDERS, module, plan.configs[0].clone(), true)
            .await?;
        declare(&client, plan).await?;
        let loaded = format!(
            "{ORDERS}@{} is loaded ({}) and {} are bound to its exchange, in {}",
            first.version,
            human::bytes(first.size),
            human::counted(plan.targets.len() as u64, "queue"),
            human::span(start.elapsed())
        );
        app.output.say(&loaded)?;
        let steady = traffic::steady(app, &client, plan).await?;
        let swapped = traffic::swapped(app, &client, plan).await?;
        Ok(Report::new(plan, steady, swapped))
    };
    let shown = shown.await;
    client.close().await;
    shown
}

/// The exchange, and a queue with a binding for each target.
async fn declare(client: &Client, plan: &Plan) -> Result<(), CliError> {
    client
        .declare_exchange(ExchangeSpec::router(ORDERS, ORDERS))
        .await?;
    for target in &plan.targets {
        client.declare_queue(QueueSpec::new(target)).await?;
        client.bind(BindingSpec::to_queue(ORDERS, target, target)).await?;
    }
    Ok(())
}

/// The source checkout: the one we are in, or the one this program was built from.
fn source_folder() -> Result<PathBuf, CliError> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    [PathBuf::from("."), built_from]
        .into_iter()
        .find(|folder| folder.join("wasm-routers/content/Cargo.toml").is_file())
        .ok_or_else(|| {
            CliError::failed(
                "NoSource",
                "the demo needs the source of the content router, and it is not here",
            )
            .hint("run it in a checkout of Pointsman, or give --module, --input and --key")
        })
}

/// Where the demo's broker lives: a folder that stays, or one that goes.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    /// A kept folder must be new: the demo's counts are of a broker that holds nothing else.
    fn new(kept: Option<&Path>) -> Result<Folder, CliError> {
        let Some(path) = kept else {
            let made = tempfile::Builder::new().prefix("pointsman-demo-").tempdir();
            return made
                .map(Folder::Temporary)
                .map_err(|error| CliError::failed("File", format!("cannot make a folder: {error}")));
        };
        std::fs::create_dir_all(path).map_err(|error| CliError::file("make", path, &error))?;
        let mut entries = std::fs::read_dir(path).map_err(|error| CliError::file("read", path, &error))?;
        match entries.next() {
            None => Ok(Folder::Kept(path.to_owned())),
            Some(_) => Err(
                CliError::usage(format!("the folder {} is not empty", path.display()))
                    .hint("name a new folder, or remove that one first"),
            ),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Folder::Kept(path) => path,
            Folder::Temporary(dir) => dir.path(),
        }
    }
}

/// Three commands to go on with. A kept broker gets a context of its own, so that they need no other flags.
fn next_commands(app: &App, folder: &Folder, context: Context, plan: &Plan) -> Result<[String; 3], CliError> {
    let program = std::env::args().next().unwrap_or_else(|| "pointsman".to_owned());
    let Folder::Kept(path) = folder else {
        return Ok([
            format!("{program} serve"),
            format!("{program} router new my-router"),
            format!("{program} demo --data-dir DIR"),
        ]);
    };
    let contexts_file = target::contexts_path(&app.global, crate::commands::variable)?;
    let mut contexts = Contexts::load(&contexts_file)?;
    let name = contexts.add("demo", context);
    contexts.save(&contexts_file)?;
    let sample = String::from_utf8_lossy(&plan.sample().body).replace('\'', "'\\''");
    Ok([
        format!("{program} serve --data-dir {}", broker::data_dir(path).display()),
        format!("{program} --context {name} router show {ORDERS}"),
        format!("{program} --context {name} publish {ORDERS} --explain '{sample}'"),
    ])
}
