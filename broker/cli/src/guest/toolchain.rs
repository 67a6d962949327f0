//! Finding a Rust toolchain that can build for wasm32-unknown-unknown.
//!
//! Two ways work: an installed target (rustup's, or a distribution's that ships it), and Debian's packages
//! `rustc-web cargo-web rust-web-src`, which build the standard library from source for each router. The first is
//! tried first. `POINTSMAN_GUEST_TOOLCHAIN` = `installed` or `debian` insists on one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::GuestError;

pub(super) const TARGET: &str = "wasm32-unknown-unknown";
const CHOICE: &str = "POINTSMAN_GUEST_TOOLCHAIN";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// A way to build for Wasm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// The target is installed: cargo does the rest.
    Installed,
    /// Debian's compiler and the source of its standard library.
    Debian {
        /// What links.
        linker: PathBuf,
    },
}

impl Toolchain {
    /// The toolchain to build the router in `dir` with.
    pub(super) fn find(dir: &Path) -> Result<Toolchain, GuestError> {
        match std::env::var(CHOICE).as_deref() {
            Err(_) | Ok("") => installed(dir).or_else(|missing| {
                debian().map_err(|also| GuestError::NoToolchain(format!("{missing}; {also}")))
            }),
            Ok("installed") => installed(dir).map_err(GuestError::NoToolchain),
            Ok("debian") => debian().map_err(GuestError::NoToolchain),
            Ok(other) => Err(GuestError::UnknownToolchain(other.to_owned())),
        }
    }

    /// What a progress line calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Toolchain::Installed => "the installed Wasm target",
            Toolchain::Debian { .. } => "Debian's compiler, with the standard library from source",
        }
    }

    /// Cargo, set up to build for Wasm into a target folder of its own where versions of compilers would mix.
    pub(super) fn cargo_build(&self, target_dir: &Path) -> Command {
        match self {
            Toolchain::Installed => {
                let mut cargo = Command::new("cargo");
                cargo.args(["build", "--target", TARGET]);
                cargo
            }
            Toolchain::Debian { linker } => {
                let mut cargo = Command::new(DEBIAN_CARGO);
                cargo
                    .args([
                        "build",
                        "--target",
                        TARGET,
                        "-Zbuild-std=std,panic_abort",
                        "--target-dir",
                    ])
                    .arg(target_dir.join("debian"))
                    .env("RUSTC", DEBIAN_RUSTC)
                    .env("RUSTC_BOOTSTRAP", "1") // -Zbuild-std is not stable
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .env_remove("RUSTC_WRAPPER");
                cargo
            }
        }
    }
}

/// Whether the compiler that `dir` gets has the target.
fn installed(dir: &Path) -> Result<Toolchain, String> {
    let arguments = ["--print", "target-libdir", "--target", TARGET];
    let libdir = ask_rustc(dir, &arguments).ok_or("there is no rustc that runs")?;
    match Path::new(libdir.trim()).is_dir() {
        true => Ok(Toolchain::Installed),
        false => Err("the target is not installed".to_owned()),
    }
}

/// Whether Debian's packages and a linker are there.
fn debian() -> Result<Toolchain, String> {
    let needed = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_STD];
    if let Some(missing) = needed.iter().find(|file| !Path::new(file).exists()) {
        return Err(format!(
            "Debian's rustc-web, cargo-web and rust-web-src are not complete, {missing} is missing"
        ));
    }
    let linker = rust_lld()
        .or_else(wasm_ld)
        .ok_or("no linker is there, neither rust-lld nor wasm-ld")?;
    Ok(Toolchain::Debian { linker })
}

/// The linker that comes with rustup's compilers.
fn rust_lld() -> Option<PathBuf> {
    let answer = ask_rustc(Path::new("."), &["--print", "sysroot", "--print", "host-tuple"])?;
    let (sysroot, host) = answer.trim().split_once('\n')?;
    let linker = Path::new(sysroot)
        .join("lib/rustlib")
        .join(host)
        .join("bin/rust-lld");
    linker.is_file().then_some(linker)
}

/// The linker of the package lld.
fn wasm_ld() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("wasm-ld"))
        .find(|file| file.is_file())
}

fn ask_rustc(dir: &Path, arguments: &[&str]) -> Option<String> {
    let answer = Command::new("rustc")
        .args(arguments)
        .current_dir(dir)
        .stderr(Stdio::null())
        .output();
    let answer = answer.ok().filter(|answer| answer.status.success())?;
    String::from_utf8(answer.stdout).ok()
}
