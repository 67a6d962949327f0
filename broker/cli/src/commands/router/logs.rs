//! `router logs`: what a router did and said.

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, Request, RouterEvent};
use serde::Serialize;

use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::output::Row;

/// The JSON form of an event.
#[derive(Debug, Serialize)]
struct EventView {
    /// Milliseconds since the Unix epoch.
    at: u64,
    version: u32,
    text: String,
}

pub(crate) async fn run(app: &App, name: String, count: u32) -> Result<(), CliError> {
    match app.ask(Request::RouterLogs { name, count }, Bytes::new()).await? {
        Reply::RouterLogs(events) => app
            .output
            .list(&events.into_iter().map(EventView::from).collect::<Vec<_>>()),
        other => Err(CliError::unexpected(&other)),
    }
}

impl From<RouterEvent> for EventView {
    fn from(event: RouterEvent) -> EventView {
        EventView {
            at: event.at,
            version: event.version,
            text: event.text,
        }
    }
}

impl Row for EventView {
    const HEADINGS: &'static [&'static str] = &["time (utc)", "version", "event"];

    fn cells(&self) -> Vec<String> {
        vec![human::utc(self.at), self.version.to_string(), self.text.clone()]
    }
}
