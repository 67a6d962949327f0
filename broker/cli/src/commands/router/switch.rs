//! `router activate`, `rollback` and `unload`: which version decides, and which are kept.

use std::str::FromStr;

use bytes::Bytes;
use pointsman_protocol::admin::{Reply, Request};

use super::list::VersionView;
use crate::commands::App;
use crate::error::CliError;

/// A router's name and a version, written `orders@2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionName {
    pub(crate) router: String,
    pub(crate) version: u32,
}

impl FromStr for VersionName {
    type Err = String;

    fn from_str(text: &str) -> Result<VersionName, String> {
        // Router names may hold an `@` themselves: the last one counts.
        let (router, version) = text
            .rsplit_once('@')
            .ok_or("write it as ROUTER@VERSION, such as orders@2")?;
        match version.parse() {
            Ok(version) if version > 0 && !router.is_empty() => Ok(VersionName {
                router: router.to_owned(),
                version,
            }),
            Ok(_) | Err(_) => {
                Err("write it as ROUTER@VERSION with a version from 1 on, such as orders@2".to_owned())
            }
        }
    }
}

pub(crate) async fn activate(app: &App, name: VersionName) -> Result<(), CliError> {
    switch(
        app,
        Request::RouterActivate {
            name: name.router,
            version: name.version,
        },
    )
    .await
}

pub(crate) async fn rollback(app: &App, name: String) -> Result<(), CliError> {
    switch(app, Request::RouterRollback(name)).await
}

async fn switch(app: &App, request: Request) -> Result<(), CliError> {
    match app.ask(request, Bytes::new()).await? {
        Reply::RouterVersion(version) => {
            let sentence = format!("{}@{} decides now", version.router, version.version);
            app.output.done(&VersionView::from(version), &sentence)
        }
        other => Err(CliError::unexpected(&other)),
    }
}

/// Unloads one version, or the router when `text` names no version.
pub(crate) async fn unload(app: &App, text: &str) -> Result<(), CliError> {
    let (name, version) = match text.parse::<VersionName>() {
        Ok(name) => (name.router, Some(name.version)),
        Err(_) => (text.to_owned(), None),
    };
    app.change(
        Request::RouterUnload { name, version },
        &format!("{text} is unloaded"),
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_router_and_number() {
        let parsed = |text: &str| {
            text.parse::<VersionName>()
                .ok()
                .map(|name| (name.router, name.version))
        };
        assert_eq!(parsed("orders@2"), Some(("orders".into(), 2)));
        assert_eq!(parsed("a@b@3"), Some(("a@b".into(), 3)));
        for wrong in ["orders", "orders@", "orders@0", "orders@x", "@1", ""] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
