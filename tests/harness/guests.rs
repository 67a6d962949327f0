//! Wasm modules, built from their sources once a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use bytes::Bytes;

use crate::binary::{pointsman, repository};

/// The module of a folder in the repository, such as `wasm-routers/content`, built with `pointsman router build`.
///
/// # Panics
/// When it does not build.
pub fn module(folder: &str) -> Bytes {
    static BUILT: OnceLock<Mutex<BTreeMap<String, Bytes>>> = OnceLock::new();
    let mut built = BUILT.get_or_init(Mutex::default).lock().expect("no build panics");
    built
        .entry(folder.to_owned())
        .or_insert_with(|| build(&repository().join(folder)))
        .clone()
}

fn build(folder: &Path) -> Bytes {
    let out = tempfile::tempdir().expect("a folder can be made");
    let file = out.path().join("module.wasm");
    let run = Command::new(pointsman())
        .args(["router", "build"])
        .arg(folder)
        .arg("--out")
        .arg(&file)
        .output()
        .expect("the binary runs");
    assert!(
        run.status.success(),
        "{}: {}",
        folder.display(),
        String::from_utf8_lossy(&run.stderr)
    );
    std::fs::read(&file).expect("a build leaves its module").into()
}

/// A core module with the packed interface, from text; for modules that misbehave in ways no compiler would.
///
/// # Panics
/// When the text is not WebAssembly.
pub fn wat(text: &str) -> Bytes {
    wat::parse_str(text).expect("the text is a module").into()
}
