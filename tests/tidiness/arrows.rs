//! Rules about dependencies: which crate may know which.

use std::collections::{BTreeMap, BTreeSet};

use crate::files::Tree;

/// Runtimes, sockets and TLS.
const RUNTIMES: [&str; 8] = [
    "tokio",
    "async-std",
    "smol",
    "mio",
    "socket2",
    "quinn",
    "quinn-proto",
    "rustls",
];
/// Stores.
const STORES: [&str; 3] = ["fjall", "lsm-tree", "pointsman-store"];
/// Virtual machines.
const MACHINES: [&str; 3] = ["wasmtime", "wasmi", "pointsman-router-host"];
/// The broker's insides, as clients must not see them.
const BROKER: [&str; 5] = [
    "pointsman-core",
    "pointsman-store",
    "pointsman-router-host",
    "pointsman-server",
    "pointsman-cli",
];
/// Where clocks and randomness come from.
const AMBIENT: [&str; 4] = ["getrandom", "rand", "chrono", "tracing"];

/// Who must not reach what, by any path of dependencies other than those of tests.
const FORBIDDEN: [(&str, &[&[&str]]); 8] = [
    (
        "pointsman-protocol",
        &[&RUNTIMES, &STORES, &MACHINES, &BROKER, &AMBIENT],
    ),
    (
        "pointsman-core",
        &[
            &RUNTIMES,
            &STORES,
            &MACHINES,
            &AMBIENT,
            &["pointsman-server", "pointsman-sdk"],
        ],
    ),
    (
        "pointsman-store",
        &[&RUNTIMES, &MACHINES, &["pointsman-server", "pointsman-sdk"]],
    ),
    (
        "pointsman-router-host",
        &[&STORES, &["quinn", "rustls", "pointsman-server", "pointsman-sdk"]],
    ),
    ("pointsman-server", &[&["pointsman-cli", "pointsman-sdk"]]),
    ("pointsman-sdk", &[&STORES, &MACHINES, &BROKER]),
    ("pointsman-load", &[&STORES, &MACHINES, &BROKER]),
    (
        "pointsman-router",
        &[&RUNTIMES, &STORES, &MACHINES, &BROKER, &["pointsman-protocol"]],
    ),
];

/// The crates of the workspace, and what every crate of `Cargo.lock` depends on.
pub(crate) struct Crates {
    members: BTreeSet<String>,
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl Crates {
    /// Reads the manifests and `Cargo.lock`.
    pub(crate) fn read(tree: &Tree) -> Crates {
        let mut crates = Crates {
            members: BTreeSet::new(),
            dependencies: BTreeMap::new(),
        };
        let lock = parse("Cargo.lock", tree.text("Cargo.lock"));
        for package in array(&lock, "package").filter_map(toml::Value::as_table) {
            let name = package["name"].as_str().unwrap_or_default().to_string();
            // "name" or "name version"; several versions of one crate count as one.
            let named = array(package, "dependencies").filter_map(|d| d.as_str()?.split(' ').next());
            crates
                .dependencies
                .entry(name)
                .or_default()
                .extend(named.map(str::to_string));
        }
        for (path, text) in tree.with_extension("toml").filter(|(path, _)| is_manifest(path)) {
            let manifest = parse(path, text);
            if let Some(name) = manifest
                .get("package")
                .and_then(|package| package["name"].as_str())
            {
                crates.members.insert(name.to_string());
                // The lock mixes in what only tests need; the manifest tells them apart.
                crates.dependencies.insert(name.to_string(), needed(&manifest));
            }
        }
        crates
    }

    /// Names of the workspace's crates.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        self.members.clone()
    }

    /// Every forbidden arrow there is, with the path that makes it.
    pub(crate) fn forbidden_arrows(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for (from, groups) in FORBIDDEN {
            let paths = self.paths_from(from);
            for to in groups.iter().copied().flatten().filter(|to| **to != from) {
                if let Some(path) = paths.get(*to) {
                    findings.push(format!("{from} must not depend on {to}: {path}"));
                }
            }
        }
        findings
    }

    /// Rules about crates that are no longer there.
    pub(crate) fn stale_rules(&self) -> Vec<String> {
        let ours = |name: &&str| name.starts_with("pointsman-");
        let to = FORBIDDEN
            .iter()
            .flat_map(|(_, groups)| groups.iter().copied().flatten().copied());
        let named: BTreeSet<&str> = FORBIDDEN
            .iter()
            .map(|(from, _)| *from)
            .chain(to.filter(ours))
            .collect();
        let gone = named.into_iter().filter(|name| !self.members.contains(*name));
        gone.map(|name| format!("a rule names {name}, which is not in the workspace"))
            .collect()
    }

    /// What a crate reaches, each with the shortest path to it.
    fn paths_from(&self, from: &str) -> BTreeMap<String, String> {
        let mut paths = BTreeMap::new();
        let mut next = vec![(from.to_string(), from.to_string())];
        while !next.is_empty() {
            for (name, path) in std::mem::take(&mut next) {
                for dependency in self.dependencies.get(&name).into_iter().flatten() {
                    if !paths.contains_key(dependency) {
                        let longer = format!("{path} -> {dependency}");
                        paths.insert(dependency.clone(), longer.clone());
                        next.push((dependency.clone(), longer));
                    }
                }
            }
        }
        paths
    }
}

fn parse(path: &str, text: &str) -> toml::Table {
    text.parse()
        .unwrap_or_else(|error| panic!("{path} is not TOML: {error}"))
}

fn is_manifest(path: &str) -> bool {
    path == "Cargo.toml" || path.ends_with("/Cargo.toml")
}

fn array<'a>(table: &'a toml::Table, key: &str) -> impl Iterator<Item = &'a toml::Value> + use<'a> {
    table
        .get(key)
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
}

/// What a manifest depends on outside its tests.
fn needed(manifest: &toml::Table) -> BTreeSet<String> {
    let targets = manifest
        .get("target")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(|t| t.values());
    let tables = std::iter::once(manifest).chain(targets.filter_map(toml::Value::as_table));
    tables
        .flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")])
        .flatten()
        .filter_map(toml::Value::as_table)
        .flat_map(|dependencies| dependencies.iter())
        .map(|(name, value)| {
            value
                .get("package")
                .and_then(|p| p.as_str())
                .unwrap_or(name)
                .to_string()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
        [[package]]
        name = "helper"
        dependencies = ["tokio 1.0.0"]
    "#;

    #[test]
    fn a_runtime_reached_through_another_crate_is_found() {
        let core = "[package]\nname = \"pointsman-core\"\n[dependencies]\nhelper = \"1\"\n";
        let crates = Crates::read(&Tree::of(&[
            ("Cargo.lock", LOCK),
            ("broker/core/Cargo.toml", core),
        ]));
        assert_eq!(
            crates.forbidden_arrows(),
            ["pointsman-core must not depend on tokio: pointsman-core -> helper -> tokio"]
        );
    }

    #[test]
    fn what_only_tests_need_and_what_is_renamed_is_told_apart() {
        let core = "[package]\nname = \"pointsman-core\"\n[dev-dependencies]\ntokio = \"1\"\n
            [target.'cfg(unix)'.dependencies]\ndatabase = { package = \"fjall\", version = \"3\" }\n";
        let crates = Crates::read(&Tree::of(&[("broker/core/Cargo.toml", core)]));
        assert_eq!(
            crates.forbidden_arrows(),
            ["pointsman-core must not depend on fjall: pointsman-core -> fjall"]
        );
    }

    #[test]
    fn a_rule_about_a_crate_that_is_gone_is_found() {
        let crates = Crates::read(&Tree::default());
        assert!(
            crates
                .stale_rules()
                .contains(&"a rule names pointsman-core, which is not in the workspace".into())
        );
    }
}
