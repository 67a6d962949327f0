//! A new router's folder: code that works, tests, cases and what to do next.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::GuestError;

/// Longest name of a router crate, in bytes.
const NAME_MAX: usize = 64;

/// The files, and where they go in the folder.
const FILES: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("template/Cargo.toml.in")),
    ("src/lib.rs", include_str!("template/src/lib.rs.in")),
    ("tests/routes.rs", include_str!("template/tests/routes.rs.in")),
    ("cases.json", include_str!("template/cases.json.in")),
    ("README.md", include_str!("template/README.md.in")),
];

/// What was made.
#[derive(Debug)]
pub(crate) struct Scaffold {
    /// The new folder.
    pub(crate) dir: PathBuf,
    /// Its files, relative to it.
    pub(crate) files: Vec<&'static str>,
    /// The SDK it depends on.
    pub(crate) sdk: PathBuf,
}

/// Writes a new router into the folder `name` in `parent`. It depends on the router SDK at `sdk` or, without one, in
/// the source that this program was built from.
///
/// # Errors
/// When the name is no crate's name, the folder exists, the SDK is not there, or a file cannot be written.
pub(crate) fn scaffold(parent: &Path, name: &str, sdk: Option<&Path>) -> Result<Scaffold, GuestError> {
    let is_crate_name = name.len() <= NAME_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .chars()
            .all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-');
    if !is_crate_name {
        return Err(GuestError::BadName(name.to_owned()));
    }
    let sdk = find_sdk(sdk)?;
    let dir = parent.join(name);
    if dir.exists() {
        return Err(GuestError::Exists(dir));
    }
    for (file, template) in FILES {
        let path = dir.join(file);
        let text = template
            .replace("{{name}}", name)
            .replace("{{crate}}", &name.replace('-', "_"))
            .replace("{{sdk}}", &toml_text(&sdk));
        let folder = path.parent().unwrap_or(&dir);
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, text));
        written.map_err(|error| GuestError::io("write", &path, error))?;
    }
    Ok(Scaffold {
        dir,
        files: FILES.map(|(file, _)| file).to_vec(),
        sdk,
    })
}

fn find_sdk(given: Option<&Path>) -> Result<PathBuf, GuestError> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wasm-routers/sdk");
    let missing = match given {
        Some(given) => GuestError::NoSdk(given.to_owned()),
        None => GuestError::UnknownSdk,
    };
    let sdk = given.unwrap_or(&own);
    match sdk.canonicalize() {
        Ok(sdk) if sdk.join("Cargo.toml").is_file() => Ok(sdk),
        _ => Err(missing),
    }
}

/// A path as TOML text.
fn toml_text(path: &Path) -> String {
    toml::Value::from(path.to_string_lossy().as_ref()).to_string()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_new_router_passes_its_own_tests() {
        let parent = tempfile::tempdir().unwrap();
        let made = scaffold(parent.path(), "by-kind", None).unwrap();
        let tested = Command::new("cargo")
            .args(["test", "--quiet", "--manifest-path"])
            .arg(made.dir.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", parent.path().join("target"))
            .output()
            .unwrap();
        assert!(
            tested.status.success(),
            "{}",
            String::from_utf8_lossy(&tested.stderr)
        );
        let cases = fs::read(made.dir.join("cases.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&cases).unwrap();
    }

    #[test]
    fn nothing_is_written_over() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("mine")).unwrap();
        assert!(matches!(
            scaffold(parent.path(), "mine", None),
            Err(GuestError::Exists(_))
        ));
    }

    #[test]
    fn a_name_that_cargo_would_not_take_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        for name in ["", "Mine", "1st", "a/b", "..", "a b", &"a".repeat(65)] {
            assert!(
                matches!(scaffold(parent.path(), name, None), Err(GuestError::BadName(_))),
                "{name}"
            );
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_sdk_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let refused = scaffold(parent.path(), "mine", Some(Path::new("/nowhere"))).unwrap_err();
        assert_eq!(refused.to_string(), "the router SDK is not at /nowhere");
    }
}
