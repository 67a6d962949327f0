//! Lines for the operator.

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Only for who develops the router.
    Debug,
    /// Worth knowing.
    Info,
    /// Probably not intended.
    Warn,
    /// Broken.
    Error,
}

/// Says something that `pointsman router logs` shows; in tests it is captured output.
///
/// A module that uses it imports `pointsman:router/host`; one that does not imports nothing. The broker cuts long
/// texts and drops lines of a module that talks too much. Never log bodies or secrets.
#[cfg(target_arch = "wasm32")]
pub fn log(level: Level, text: &str) {
    use crate::guest::bindings::pointsman::router::host;
    let level = match level {
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, text);
}

/// Says something that `pointsman router logs` shows; in tests it is captured output.
///
/// A module that uses it imports `pointsman:router/host`; one that does not imports nothing. The broker cuts long
/// texts and drops lines of a module that talks too much. Never log bodies or secrets.
#[cfg(not(target_arch = "wasm32"))]
#[allow(
    clippy::print_stderr,
    reason = "a router only runs natively in its author's tests"
)]
pub fn log(level: Level, text: &str) {
    eprintln!("{level:?}: {text}");
}
