//! From a folder to a module.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::error::GuestError;
use super::toolchain::Toolchain;

/// How many of cargo's last lines an error shows.
const LINES_SHOWN: usize = 60;

/// Files by which a language shows that `router build` does not build, what it is called, and what to do.
const OTHER_LANGUAGES: [(&str, &str, &str); 6] = [
    (
        ".rhai",
        "a Rhai script",
        "a script needs no building: load the script router with it as the configuration",
    ),
    (
        ".wat",
        "WebAssembly text",
        "a .wat file needs no building: load it as it is",
    ),
    (
        ".c",
        "C",
        "compile it with clang for wasm32 and load the .wasm file",
    ),
    (
        ".ts",
        "AssemblyScript or TypeScript",
        "compile it with its own tool and load the .wasm file",
    ),
    (
        ".js",
        "JavaScript",
        "make a component of it with its own tool and load the .wasm file",
    ),
    (
        ".py",
        "Python",
        "make a component of it with its own tool and load the .wasm file",
    ),
];

/// Builds the router in `dir` and answers where its module is. `progress` hears one line for each step.
///
/// # Errors
/// When the folder holds no Rust crate that makes a module, no toolchain is there, or cargo fails.
pub(crate) fn build(dir: &Path, mut progress: impl FnMut(&str)) -> Result<PathBuf, GuestError> {
    expect_rust(dir)?;
    let manifest = dir.join("Cargo.toml");
    let manifest = manifest
        .canonicalize()
        .map_err(|error| GuestError::io("read", &manifest, error))?;
    let toolchain = Toolchain::find(dir)?;
    progress(&format!("building {} with {}", dir.display(), toolchain.name()));
    let workspace = Workspace::of(dir, &manifest)?;
    let mut cargo = toolchain.cargo_build(&workspace.target_dir);
    cargo
        .args([
            "--profile",
            workspace.profile(),
            "--lib",
            "--message-format",
            "json-render-diagnostics",
        ])
        .arg("--manifest-path")
        .arg(&manifest)
        .current_dir(dir);
    let artefacts = run(cargo, dir, progress)?;
    module_of(&manifest, &artefacts).ok_or_else(|| GuestError::NoModule(dir.to_owned()))
}

fn expect_rust(dir: &Path) -> Result<(), GuestError> {
    if dir.join("Cargo.toml").is_file() {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(|_| GuestError::NotAFolder(dir.to_owned()))?;
    let names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let known = OTHER_LANGUAGES
        .iter()
        .find(|(ending, ..)| names.iter().any(|name| name.ends_with(ending)));
    let (_, language, hint) = known.copied().unwrap_or((
        "",
        "nothing that is known",
        "make a new router with `pointsman router new NAME`",
    ));
    Err(GuestError::OtherLanguage {
        dir: dir.to_owned(),
        language,
        hint,
    })
}

/// What cargo says about the workspace a router is in.
struct Workspace {
    root: PathBuf,
    target_dir: PathBuf,
}

impl Workspace {
    fn of(dir: &Path, manifest: &Path) -> Result<Workspace, GuestError> {
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "metadata",
                "--no-deps",
                "--format-version",
                "1",
                "--manifest-path",
            ])
            .arg(manifest);
        let answer = cargo.current_dir(dir).output();
        let answer = answer.map_err(|error| GuestError::io("run", Path::new("cargo"), error))?;
        let metadata: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let path = |member: &str| metadata[member].as_str().map(PathBuf::from);
        match (path("workspace_root"), path("target_directory")) {
            (Some(root), Some(target_dir)) => Ok(Workspace { root, target_dir }),
            _ => Err(GuestError::Cargo {
                dir: dir.to_owned(),
                output: String::from_utf8_lossy(&answer.stderr).trim_end().to_owned(),
            }),
        }
    }

    /// The profile `guest` where the workspace has it: small, fast, and a panic is a trap.
    fn profile(&self) -> &'static str {
        let manifest = std::fs::read_to_string(self.root.join("Cargo.toml")).unwrap_or_default();
        let manifest: toml::Table = manifest.parse().unwrap_or_default();
        let profiles = manifest.get("profile").and_then(toml::Value::as_table);
        match profiles.is_some_and(|profiles| profiles.contains_key("guest")) {
            true => "guest",
            false => "release",
        }
    }
}

/// Runs cargo; answers its messages, one JSON object a line.
fn run(mut cargo: Command, dir: &Path, mut progress: impl FnMut(&str)) -> Result<String, GuestError> {
    let no_cargo = |error| GuestError::io("run", Path::new("cargo"), error);
    let mut child = cargo
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_cargo)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both pipes are read at once: cargo would wait for ever on the one that fills up.
    let messages = std::thread::spawn(move || {
        let mut messages = String::new();
        stdout
            .map(|mut pipe| pipe.read_to_string(&mut messages))
            .transpose()
            .map(|_| messages)
    });
    let mut lines = Vec::new();
    for line in stderr
        .into_iter()
        .flat_map(|pipe| BufReader::new(pipe).lines())
        .map_while(Result::ok)
    {
        progress(line.trim());
        lines.push(line);
    }
    let status = child.wait().map_err(no_cargo)?;
    let messages = messages
        .join()
        .unwrap_or_else(|_| Ok(String::new()))
        .map_err(no_cargo)?;
    if status.success() {
        return Ok(messages);
    }
    let shown = lines.len().saturating_sub(LINES_SHOWN);
    Err(GuestError::Cargo {
        dir: dir.to_owned(),
        output: lines.split_off(shown).join("\n"),
    })
}

/// The module among what cargo made for this manifest.
fn module_of(manifest: &Path, messages: &str) -> Option<PathBuf> {
    let artefacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours =
        artefacts.filter(|artefact| artefact["manifest_path"].as_str().map(Path::new) == Some(manifest));
    let files = ours
        .filter_map(|artefact| artefact["filenames"].as_array().cloned())
        .flatten();
    let mut files = files.filter_map(|file| file.as_str().map(PathBuf::from));
    files.find(|file| file.extension().is_some_and(|ending| ending == "wasm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        folder
    }

    #[test]
    fn a_folder_of_another_language_is_refused_by_its_name() {
        let folder = folder_with(&["router.c", "README.md"]);
        let refused = build(folder.path(), |_| ()).unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("holds C, which `router build` does not build; it builds Rust")
        );
        assert_eq!(
            refused.hint(),
            "compile it with clang for wasm32 and load the .wasm file"
        );
    }

    #[test]
    fn an_empty_folder_and_a_missing_one_are_told_apart() {
        let folder = folder_with(&[]);
        assert!(
            build(folder.path(), |_| ())
                .unwrap_err()
                .to_string()
                .contains("nothing that is known")
        );
        let missing = build(&folder.path().join("x"), |_| ()).unwrap_err();
        assert!(matches!(missing, GuestError::NotAFolder(_)));
    }

    #[test]
    fn a_manifest_that_cargo_refuses_is_shown_with_what_cargo_says() {
        let folder = folder_with(&[]);
        std::fs::write(folder.path().join("Cargo.toml"), "[package]\n[workspace]\n").unwrap();
        let refused = build(folder.path(), |_| ()).unwrap_err();
        assert!(
            matches!(&refused, GuestError::Cargo { output, .. } if output.contains("name")),
            "{refused}"
        );
    }

    #[test]
    fn the_module_is_the_wasm_file_of_the_routers_own_manifest() {
        let messages = r#"
            {"reason":"compiler-artifact","manifest_path":"/dep/Cargo.toml","filenames":["/t/dep.wasm"]}
            {"reason":"compiler-artifact","manifest_path":"/r/Cargo.toml","filenames":["/t/libr.rlib","/t/r.wasm"]}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(
            module_of(Path::new("/r/Cargo.toml"), messages),
            Some("/t/r.wasm".into())
        );
        assert_eq!(module_of(Path::new("/other/Cargo.toml"), messages), None);
    }
}
