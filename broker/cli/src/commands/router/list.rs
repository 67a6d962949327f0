//! `router list` and `router show`.

use bytes::Bytes;
use pointsman_protocol::admin::{Interface, Reply, Request, RouterCounters, RouterInfo, RouterVersion};
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::commands::App;
use crate::error::CliError;
use crate::human;
use crate::output::Row;
use crate::values;

/// The JSON form of a router.
#[derive(Debug, Serialize)]
pub(crate) struct RouterView {
    name: String,
    active: Option<u32>,
    previous: Option<u32>,
    exchanges: Vec<String>,
    routed: u64,
    cached: u64,
    rejected: u64,
    batches: u64,
    busy_ns: u64,
    failures: u64,
    cache_off: Option<u32>,
    versions: Vec<VersionView>,
}

/// The JSON form of a version.
#[derive(Debug, Serialize)]
pub(crate) struct VersionView {
    router: String,
    version: u32,
    active: bool,
    interface: &'static str,
    /// SHA-256 of the module in hexadecimal.
    digest: String,
    size: u64,
    /// Milliseconds since the Unix epoch.
    loaded_at: u64,
    /// Text, or `{"base64": ...}` when it is not UTF-8.
    config: Json,
}

pub(crate) async fn list(app: &App) -> Result<(), CliError> {
    app.output.list(&routers(app, None).await?)
}

pub(crate) async fn show(app: &App, name: String) -> Result<(), CliError> {
    let Some(router) = routers(app, Some(name.clone())).await?.into_iter().next() else {
        let message = format!("there is no router `{name}`");
        return Err(CliError::failed("NotFound", message));
    };
    app.output.one(&router, &router.lines())?;
    if !router.versions.is_empty() && app.output.format == crate::output::Format::Table {
        app.output.say("")?;
        app.output.list(&router.versions)?;
    }
    Ok(())
}

async fn routers(app: &App, name: Option<String>) -> Result<Vec<RouterView>, CliError> {
    match app.ask(Request::ListRouters(name), Bytes::new()).await? {
        Reply::Routers(routers) => Ok(routers.into_iter().map(RouterView::from).collect()),
        other => Err(CliError::unexpected(&other)),
    }
}

impl From<RouterInfo> for RouterView {
    fn from(info: RouterInfo) -> RouterView {
        let RouterCounters {
            routed,
            cached,
            rejected,
            batches,
            busy_ns,
            failures,
            cache_off,
        } = info.counters;
        RouterView {
            name: info.name,
            active: info.active,
            previous: info.previous,
            exchanges: info.exchanges,
            routed,
            cached,
            rejected,
            batches,
            busy_ns,
            failures,
            cache_off,
            versions: info.versions.into_iter().map(VersionView::from).collect(),
        }
    }
}

impl From<RouterVersion> for VersionView {
    fn from(version: RouterVersion) -> VersionView {
        VersionView {
            router: version.router,
            version: version.version,
            active: version.active,
            interface: match version.interface {
                Interface::Typed => "typed",
                Interface::Packed => "packed",
                Interface::Core => "core",
            },
            digest: version.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            size: version.size,
            loaded_at: version.loaded_at,
            config: match String::from_utf8(version.config) {
                Ok(text) => json!(text),
                Err(error) => json!({ "base64": values::base64(error.as_bytes()) }),
            },
        }
    }
}

impl RouterView {
    fn lines(&self) -> [(&'static str, String); 7] {
        let version =
            |number: Option<u32>| number.map_or("none".to_owned(), |n| format!("{}@{n}", self.name));
        let decided = self.routed + self.cached;
        let each =
            (self.busy_ns.checked_div(self.routed)).map_or(String::new(), |ns| format!(", {ns} ns each"));
        [
            ("name", self.name.clone()),
            ("active", version(self.active)),
            ("previous", version(self.previous)),
            (
                "exchanges",
                if self.exchanges.is_empty() {
                    "none".to_owned()
                } else {
                    self.exchanges.join(", ")
                },
            ),
            (
                "decided",
                format!(
                    "{} ({} from the cache{})",
                    human::counted(decided, "message"),
                    human::count(self.cached),
                    self.cache_off.map_or(String::new(), |version| {
                        format!("; off for {}@{version}, see router logs", self.name)
                    })
                ),
            ),
            (
                "module calls",
                format!(
                    "{} for {}{each}",
                    human::count(self.batches),
                    human::counted(self.routed, "message")
                ),
            ),
            (
                "trouble",
                format!(
                    "{} rejected, {}",
                    human::count(self.rejected),
                    human::counted(self.failures, "failure")
                ),
            ),
        ]
    }
}

impl Row for RouterView {
    const HEADINGS: &'static [&'static str] = &[
        "name",
        "active",
        "versions",
        "exchanges",
        "decided",
        "rejected",
        "failures",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.active
                .map_or("none".to_owned(), |version| version.to_string()),
            self.versions.len().to_string(),
            self.exchanges.join(" "),
            human::count(self.routed + self.cached),
            human::count(self.rejected),
            human::count(self.failures),
        ]
    }
}

impl Row for VersionView {
    const HEADINGS: &'static [&'static str] = &[
        "version",
        "active",
        "loaded",
        "interface",
        "size",
        "sha-256",
        "config",
    ];

    fn cells(&self) -> Vec<String> {
        /// As much of a configuration as fits a table.
        const CONFIG_SHOWN: usize = 40;
        let config = match &self.config {
            Json::String(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
            _ => "(bytes)".to_owned(),
        };
        let shown: String = config.chars().take(CONFIG_SHOWN).collect();
        vec![
            format!("{}@{}", self.router, self.version),
            if self.active { "*" } else { "" }.to_owned(),
            human::utc(self.loaded_at),
            self.interface.to_owned(),
            human::bytes(self.size),
            self.digest.chars().take(12).collect(),
            if shown.len() < config.len() {
                format!("{shown}...")
            } else {
                shown
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(config: &[u8]) -> VersionView {
        VersionView::from(RouterVersion {
            router: "orders".into(),
            version: 2,
            digest: [0xab; 32],
            size: 2048,
            interface: Interface::Packed,
            config: config.to_vec(),
            loaded_at: 0,
            active: true,
        })
    }

    #[test]
    fn a_version_is_shown_by_name_digest_and_the_start_of_its_config() {
        let cells = version(b"{\n  \"rules\": []\n}").cells();
        assert_eq!(
            cells,
            [
                "orders@2",
                "*",
                "1970-01-01 00:00:00",
                "packed",
                "2.0 KiB",
                "abababababab",
                "{ \"rules\": [] }"
            ]
        );
        assert!(version(&[b'x'; 100]).cells()[6].ends_with("x..."));
    }

    #[test]
    fn a_config_is_text_in_json_and_base64_when_it_is_not_text() {
        assert_eq!(serde_json::to_value(version(b"a")).unwrap()["config"], "a");
        assert_eq!(
            serde_json::to_value(version(&[0xff])).unwrap()["config"]["base64"],
            "/w=="
        );
    }
}
