//! The `pointsman` binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The binary, built once a run in the profile this test was built in. `POINTSMAN_BIN` names one that is built already.
///
/// # Panics
/// When it cannot be built.
pub fn pointsman() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("POINTSMAN_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

/// The top of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the repository")
}

fn build() -> PathBuf {
    // target/<profile>/deps/<this test>
    let this = std::env::current_exe().expect("a test knows its own file");
    let folder = this
        .ancestors()
        .nth(2)
        .expect("a test is in target/<profile>/deps");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo tells a test of its package would make build scripts, ring's above all, run again, and again outside.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|of_package| name.to_string_lossy().starts_with(of_package))
        {
            command.env_remove(name);
        }
    }
    // The whole workspace chooses features, as in `cargo test --workspace`, so that nothing is compiled twice.
    let status = command
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--bin",
            "pointsman",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(folder.parent().expect("target/<profile> is in target"))
        .current_dir(repository())
        .stdin(Stdio::null())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "`pointsman` does not build");
    folder.join(format!("pointsman{}", std::env::consts::EXE_SUFFIX))
}
