//! The client commands of the binary.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::binary::pointsman;
use crate::broker::Broker;

/// A client command against this broker, as a user would type it: the context that `serve` wrote says the rest.
pub fn command(broker: &Broker, args: &[&str]) -> Command {
    let mut command = Command::new(pointsman());
    command
        .arg("--contexts-file")
        .arg(broker.contexts_file())
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Runs a command that must succeed, and returns what it wrote to standard output.
///
/// # Panics
/// When it fails.
pub fn run(broker: &Broker, args: &[&str]) -> String {
    let output = output(broker, args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "pointsman {}: {}\n{stderr}",
        args.join(" "),
        output.status
    );
    String::from_utf8(output.stdout).expect("output is text")
}

/// Runs a command with `-o json` that must succeed, and returns what it wrote.
///
/// # Panics
/// When it fails or does not write JSON.
pub fn json(broker: &Broker, args: &[&str]) -> Value {
    let text = run(broker, &[args, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error} in {text}", args.join(" ")))
}

/// Runs a command that must fail, and returns what it wrote to standard error.
///
/// # Panics
/// When it succeeds.
pub fn fails(broker: &Broker, args: &[&str]) -> String {
    let output = output(broker, args);
    assert!(
        !output.status.success(),
        "pointsman {} should fail",
        args.join(" ")
    );
    String::from_utf8(output.stderr).expect("errors are text")
}

fn output(broker: &Broker, args: &[&str]) -> Output {
    command(broker, args).output().expect("the binary runs")
}
