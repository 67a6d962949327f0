//! `pointsman status`: what the broker is doing.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, Request, Status};
use serde::Serialize;

use crate::commands::App;
use crate::error::CliError;
use crate::human;

/// The JSON form: the broker's figures, with those of the store as an object.
#[derive(Serialize)]
struct StatusView {
    version: String,
    data_dir: String,
    uptime_ms: u64,
    fsync: String,
    blocked: Option<String>,
    connections: u64,
    exchanges: u64,
    queues: u64,
    bindings: u64,
    routers: u64,
    ready: u64,
    unsettled: u64,
    published: u64,
    delivered: u64,
    expired: u64,
    delayed: u64,
    commits: u64,
    store: BTreeMap<String, u64>,
}

pub(crate) async fn run(app: &App) -> Result<(), CliError> {
    let status = match app.ask(Request::Status, Bytes::new()).await? {
        Reply::Status(status) => *status,
        other => return Err(CliError::unexpected(&other)),
    };
    let view = StatusView::from(status);
    app.output.one(&view, &view.lines())
}

impl From<Status> for StatusView {
    fn from(s: Status) -> StatusView {
        StatusView {
            version: s.version,
            data_dir: s.data_dir,
            uptime_ms: s.uptime_ms,
            fsync: s.fsync,
            blocked: s.blocked,
            connections: s.connections,
            exchanges: s.exchanges,
            queues: s.queues,
            bindings: s.bindings,
            routers: s.routers,
            ready: s.ready,
            unsettled: s.unsettled,
            published: s.published,
            delivered: s.delivered,
            expired: s.expired,
            delayed: s.delayed,
            commits: s.commits,
            store: s.store.into_iter().collect(),
        }
    }
}

impl StatusView {
    fn lines(&self) -> Vec<(&str, String)> {
        let mut lines = vec![
            ("version", self.version.clone()),
            ("up", human::span(Duration::from_millis(self.uptime_ms))),
            ("data", self.data_dir.clone()),
            ("fsync", self.fsync.clone()),
            (
                "publishes",
                self.blocked
                    .clone()
                    .map_or("taken".to_owned(), |why| format!("blocked: {why}")),
            ),
            ("connections", human::count(self.connections)),
            ("exchanges", human::count(self.exchanges)),
            ("queues", human::count(self.queues)),
            ("bindings", human::count(self.bindings)),
            ("routers", human::count(self.routers)),
            (
                "messages",
                format!(
                    "{} ready, {} unsettled, {} delayed",
                    human::count(self.ready),
                    human::count(self.unsettled),
                    human::count(self.delayed)
                ),
            ),
            (
                "since start",
                format!(
                    "{} published, {} delivered, {} expired, {}",
                    human::count(self.published),
                    human::count(self.delivered),
                    human::count(self.expired),
                    human::counted(self.commits, "commit"),
                ),
            ),
        ];
        lines.extend(
            self.store
                .iter()
                .map(|(name, value)| (name.as_str(), human::count(*value))),
        );
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_broker_says_why_in_both_formats() {
        let status = Status {
            version: "0.1.0".into(),
            data_dir: "/d".into(),
            uptime_ms: 61_000,
            fsync: "always".into(),
            connections: 1,
            exchanges: 7,
            queues: 2,
            bindings: 3,
            routers: 1,
            ready: 1_000,
            unsettled: 0,
            published: 0,
            delivered: 0,
            expired: 0,
            delayed: 3,
            commits: 1,
            blocked: Some("the disk is nearly full".into()),
            store: vec![("journal_bytes".into(), 5)],
        };
        let view = StatusView::from(status);
        let lines = view.lines();
        assert!(lines.contains(&("publishes", "blocked: the disk is nearly full".into())));
        assert!(lines.contains(&("messages", "1,000 ready, 0 unsettled, 3 delayed".into())));
        assert!(lines.contains(&("journal_bytes", "5".into())));
        let json = serde_json::to_value(&view).unwrap();
        assert_eq!(json["blocked"], "the disk is nearly full");
        assert_eq!(json["store"]["journal_bytes"], 5);
    }
}
