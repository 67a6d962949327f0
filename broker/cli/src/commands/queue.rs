//! `pointsman queue`: declare, look at, purge and delete queues.

use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use pointsman_protocol::Fsync;
use pointsman_protocol::admin::{QueueInfo, QueueKind, QueueSpec, Reply, Request, Retention};
use serde::Serialize;

use crate::amounts;
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
        /// Make a stream: it keeps its messages, and each consumer reads all of them from where it starts
        #[arg(long, conflicts_with_all = ["transient", "auto_delete"])]
        stream: bool,
        /// A stream drops messages that are older, such as 7d
        #[arg(long, value_name = "SPAN", requires = "stream", value_parser = amounts::span)]
        max_age: Option<Duration>,
        /// A stream drops messages behind so many bytes, such as 10GB
        #[arg(long, value_name = "SIZE", requires = "stream", value_parser = amounts::size)]
        max_bytes: Option<u64>,
        /// A stream drops messages behind so many
        #[arg(long, value_name = "NUMBER", requires = "stream")]
        max_messages: Option<u64>,
        /// Messages that wait longer expire, such as 1m; not for streams
        #[arg(long, value_name = "SPAN", value_parser = amounts::lasting_span, conflicts_with = "stream")]
        message_ttl: Option<Duration>,
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
    /// `work` or `stream`.
    kind: &'static str,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    ready: u64,
    unsettled: u64,
    consumers: u32,
    published: u64,
    acked: u64,
    redelivered: u64,
    expired: u64,
    delayed: u64,
    /// How long messages may wait before they expire.
    message_ttl_ms: Option<u64>,
    /// What a confirm of a persistent message promises; none in a queue that is not on disk.
    fsync: Option<String>,
    #[serde(flatten)]
    stream: Option<StreamView>,
}

/// What the JSON form of a stream has more.
#[derive(Debug, Serialize)]
struct StreamView {
    first_offset: u64,
    /// None when the stream is empty.
    last_offset: Option<u64>,
    /// Bytes of metadata and bodies.
    bytes: u64,
    max_age_ms: Option<u64>,
    max_bytes: Option<u64>,
    max_messages: Option<u64>,
}

pub(crate) async fn run(app: &App, command: QueueCommand) -> Result<(), CliError> {
    match command {
        QueueCommand::Declare {
            name,
            transient,
            auto_delete,
            fsync,
            stream,
            max_age,
            max_bytes,
            max_messages,
            message_ttl,
        } => {
            let retention = Retention {
                max_age_ms: max_age.map(amounts::millis),
                max_bytes,
                max_messages,
            };
            let spec = QueueSpec {
                name,
                durable: !transient,
                exclusive: false,
                auto_delete,
                fsync,
                kind: match stream {
                    true => QueueKind::Stream(retention),
                    false => QueueKind::Work,
                },
                message_ttl_ms: message_ttl.map(amounts::millis),
            };
            for queue in queues(app, Request::DeclareQueue(spec)).await? {
                app.output
                    .done(&queue, &format!("{} `{}` is there", queue.noun(), queue.name))?;
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
        let retention = info.spec.kind.retention().unwrap_or_default();
        QueueView {
            name: info.spec.name,
            kind: info.spec.kind.name(),
            durable: info.spec.durable,
            exclusive: info.spec.exclusive,
            auto_delete: info.spec.auto_delete,
            ready: info.ready,
            unsettled: info.unsettled,
            consumers: info.consumers,
            published: info.published,
            acked: info.acked,
            redelivered: info.redelivered,
            expired: info.expired,
            delayed: info.delayed,
            message_ttl_ms: info.spec.message_ttl_ms,
            fsync,
            stream: info.stream.map(|stream| StreamView {
                first_offset: stream.first_offset,
                last_offset: (stream.first_offset < stream.next_offset).then(|| stream.next_offset - 1),
                bytes: stream.bytes,
                max_age_ms: retention.max_age_ms,
                max_bytes: retention.max_bytes,
                max_messages: retention.max_messages,
            }),
        }
    }
}

impl QueueView {
    fn noun(&self) -> &'static str {
        if self.stream.is_some() { "stream" } else { "queue" }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
        let mut lines = vec![
            ("name", self.name.clone()),
            ("kind", self.kind.to_owned()),
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
            ("delayed", human::count(self.delayed)),
        ];
        if self.stream.is_none() {
            let ttl = |ms| human::span(Duration::from_millis(ms));
            lines.extend([
                ("expired", human::count(self.expired)),
                (
                    "message ttl",
                    self.message_ttl_ms.map_or_else(|| "none".to_owned(), ttl),
                ),
            ]);
        }
        lines.extend(self.stream.iter().flat_map(StreamView::lines));
        lines
    }
}

impl StreamView {
    fn lines(&self) -> [(&'static str, String); 4] {
        let last = self.last_offset.map_or_else(|| "none".to_owned(), human::count);
        [
            ("first offset", human::count(self.first_offset)),
            ("last offset", last),
            ("size", human::bytes(self.bytes)),
            ("retention", self.retention()),
        ]
    }

    fn retention(&self) -> String {
        let limits = [
            self.max_age_ms.map(|ms| human::span(Duration::from_millis(ms))),
            self.max_bytes.map(human::bytes),
            self.max_messages.map(|count| human::counted(count, "message")),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        match limits.is_empty() {
            true => "keeps everything".to_owned(),
            false => limits.join(", "),
        }
    }
}

impl Row for QueueView {
    const HEADINGS: &'static [&'static str] = &[
        "name",
        "kind",
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
            self.kind.to_owned(),
            if self.durable { "yes" } else { "no" }.to_owned(),
            human::count(self.ready),
            human::count(self.unsettled),
            self.consumers.to_string(),
            human::count(self.published),
            human::count(self.acked),
        ]
    }
}
