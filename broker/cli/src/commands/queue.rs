//! `pointsman queue`: declare, look at, purge and delete queues.

use bytes::Bytes;
use clap::Subcommand;
use pointsman_protocol::Fsync;
use pointsman_protocol::admin::{QueueInfo, QueueSpec, Reply, Request};
use serde::Serialize;

use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::output::Row;

/// Declare, look at, purge and delete queues.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Make a queue; it may exist with the same properties
    Declare {
        /// Its name; left out, the broker chooses one and prints it
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
        /// Kept in memory only, gone after a restart of the broker
        #[arg(long)]
        transient: bool,
        /// Deleted when its last consumer goes
        #[arg(long)]
        auto_delete: bool,
        /// When a confirm is sent: always after a sync, interval:100ms (1 to 60000) or never [default: as the broker]
        #[arg(long, value_name = "WHEN")]
        fsync: Option<Fsync>,
    },
    /// List all queues of the vhost
    #[command(visible_alias = "ls")]
    List,
    /// Show one queue
    Show {
        /// Its name
        name: String,
    },
    /// Delete a queue and what is in it
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: String,
        /// Refuse when it has consumers
        #[arg(long)]
        if_unused: bool,
        /// Refuse when it has messages
        #[arg(long)]
        if_empty: bool,
    },
    /// Remove the messages that wait in a queue
    Purge {
        /// Its name
        name: String,
    },
}

/// The JSON form of a queue.
#[derive(Debug, Serialize)]
pub(crate) struct QueueView {
    name: String,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    ready: u64,
    unsettled: u64,
    consumers: u32,
    published: u64,
    acked: u64,
    redelivered: u64,
    /// What a confirm of a persistent message promises; none in a queue that is not on disk.
    fsync: Option<String>,
}

pub(crate) async fn run(app: &App, command: QueueCommand) -> Result<(), CliError> {
    match command {
        QueueCommand::Declare {
            name,
            transient,
            auto_delete,
            fsync,
        } => {
            let spec = QueueSpec {
                name,
                durable: !transient,
                exclusive: false,
                auto_delete,
                fsync,
            };
            for queue in queues(app, Request::DeclareQueue(spec)).await? {
                app.output
                    .done(&queue, &format!("queue `{}` is there", queue.name))?;
            }
            Ok(())
        }
        QueueCommand::List => app.output.list(&queues(app, Request::ListQueues(None)).await?),
        QueueCommand::Show { name } => show(app, name).await,
        QueueCommand::Delete {
            name,
            if_unused,
            if_empty,
        } => {
            let did = format!("queue `{name}` is deleted");
            remove(
                app,
                Request::DeleteQueue {
                    name,
                    if_unused,
                    if_empty,
                },
                &did,
            )
            .await
        }
        QueueCommand::Purge { name } => {
            let did = format!("queue `{name}` is purged");
            remove(app, Request::PurgeQueue(name), &did).await
        }
    }
}

async fn show(app: &App, name: String) -> Result<(), CliError> {
    let found = queues(app, Request::ListQueues(Some(name.clone()))).await?;
    let Some(queue) = found.into_iter().next() else {
        let message = format!("there is no queue `{name}`");
        return Err(CliError::failed("NotFound", message));
    };
    app.output.one(&queue, &queue.lines())
}

async fn remove(app: &App, request: Request, did: &str) -> Result<(), CliError> {
    match app.ask(request, Bytes::new()).await? {
        Reply::Purged(removed) => {
            let sentence = format!("{did}; {} removed", human::counted(removed, "message"));
            app.output
                .done(&serde_json::json!({ "removed": removed }), &sentence)
        }
        other => Err(CliError::unexpected(&other)),
    }
}

async fn queues(app: &App, request: Request) -> Result<Vec<QueueView>, CliError> {
    match app.ask(request, Bytes::new()).await? {
        Reply::Queues(queues) => Ok(queues.into_iter().map(QueueView::from).collect()),
        other => Err(CliError::unexpected(&other)),
    }
}

impl From<QueueInfo> for QueueView {
    fn from(info: QueueInfo) -> QueueView {
        let on_disk = info.spec.durable && !info.spec.exclusive;
        let fsync = on_disk.then(|| info.fsync.to_string());
        QueueView {
            name: info.spec.name,
            durable: info.spec.durable,
            exclusive: info.spec.exclusive,
            auto_delete: info.spec.auto_delete,
            ready: info.ready,
            unsettled: info.unsettled,
            consumers: info.consumers,
            published: info.published,
            acked: info.acked,
            redelivered: info.redelivered,
            fsync,
        }
    }
}

impl QueueView {
    fn lines(&self) -> [(&'static str, String); 11] {
        let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
        [
            ("name", self.name.clone()),
            ("durable", yes_no(self.durable)),
            ("exclusive", yes_no(self.exclusive)),
            ("auto-delete", yes_no(self.auto_delete)),
            (
                "fsync",
                self.fsync
                    .clone()
                    .unwrap_or_else(|| "none: in memory only".to_owned()),
            ),
            ("ready", human::count(self.ready)),
            ("unsettled", human::count(self.unsettled)),
            ("consumers", self.consumers.to_string()),
            ("published", human::count(self.published)),
            ("acked", human::count(self.acked)),
            ("redelivered", human::count(self.redelivered)),
        ]
    }
}

impl Row for QueueView {
    const HEADINGS: &'static [&'static str] = &[
        "name",
        "durable",
        "ready",
        "unsettled",
        "consumers",
        "published",
        "acked",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            if self.durable { "yes" } else { "no" }.to_owned(),
            human::count(self.ready),
            human::count(self.unsettled),
            self.consumers.to_string(),
            human::count(self.published),
            human::count(self.acked),
        ]
    }
}
