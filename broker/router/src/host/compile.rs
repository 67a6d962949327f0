//! From the bytes a user uploads to machine code, in a process that may fail without harm.
//!
//! Compiling is outside of wasmtime's promise of safety in time and memory: small modules exist that compile for
//! minutes. So the broker runs its own program again as a child, which limits itself before it reads the module.

use std::borrow::Cow;
use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use wasmtime::Engine;
use wit_component::ComponentEncoder;

use super::engine::compiling_engine;
use super::{CompileMode, HostOptions};
use crate::error::ModuleError;

/// Prefix of the custom sections in which wit-bindgen leaves a core module's interface.
const INTERFACE_SECTION: &[u8] = b"component-type";

/// Compiles a module where the options say.
pub(crate) fn compile(options: &HostOptions, module: &[u8]) -> Result<Vec<u8>, ModuleError> {
    match &options.compile {
        CompileMode::InProcess => {
            let engine = compiling_engine().map_err(|error| ModuleError::Broker(format!("{error:#}")))?;
            compile_here(&engine, module).map_err(ModuleError::Invalid)
        }
        CompileMode::Child { exe, args } => {
            let mut command = Command::new(exe);
            command
                .args(args)
                .arg(options.limits.compile_time.as_secs().max(1).to_string())
                .arg(options.limits.compile_memory.to_string());
            compile_in_child(command, module)
        }
    }
}

fn compile_in_child(mut command: Command, module: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let broker = |error: std::io::Error| ModuleError::Broker(format!("the compiling process: {error}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broker)?;
    let (mut stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let mut artefact = Vec::new();
    let complaint = std::thread::scope(|scope| {
        // A child that ends early closes its stdin; its status says why.
        scope.spawn(move || stdin.as_mut().map(|stdin| stdin.write_all(module)));
        let complaint = scope.spawn(move || {
            let mut text = String::new();
            stderr.map(|pipe| pipe.take(4096).read_to_string(&mut text));
            text
        });
        if let Some(stdout) = &mut child.stdout {
            stdout.read_to_end(&mut artefact)?;
        }
        Ok(complaint.join().unwrap_or_default())
    })
    .map_err(broker)?;
    let status = child.wait().map_err(broker)?;
    if status.success() {
        Ok(artefact)
    } else {
        Err(verdict(status, complaint.trim()))
    }
}

/// Why a child failed: it says so itself and exits with 1, or it hit a limit.
fn verdict(status: ExitStatus, complaint: &str) -> ModuleError {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(1), _) => ModuleError::Invalid(complaint.to_owned()),
        (_, Some(signal)) if signal == rustix::process::Signal::XCPU.as_raw() || signal == 9 => {
            ModuleError::CompileLimit("it took too much CPU time".into())
        }
        (_, Some(6)) => ModuleError::CompileLimit("it took too much memory".into()),
        _ => ModuleError::CompileLimit(format!("the compiling process ended with {status}")),
    }
}

/// What the hidden subcommand `compile-module SECONDS BYTES` runs: limits this process to so much CPU time and address
/// space, reads a module from stdin, and writes the compiled module to stdout.
///
/// # Errors
/// A sentence for stderr; the process should then exit with status 1.
pub fn compile_child_main(cpu_time: Duration, memory: u64) -> Result<(), String> {
    let hard = |limit: u64| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    for (resource, limit) in [
        (Resource::Cpu, cpu_time.as_secs().max(1)),
        (Resource::As, memory),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        (Resource::Nofile, 16),
    ] {
        setrlimit(resource, hard(limit)).map_err(|error| format!("cannot limit this process: {error}"))?;
    }
    let mut module = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut module)
        .map_err(|error| format!("cannot read stdin: {error}"))?;
    let engine = compiling_engine().map_err(|error| format!("{error:#}"))?;
    let artefact = compile_here(&engine, &module)?;
    std::io::stdout()
        .lock()
        .write_all(&artefact)
        .map_err(|error| format!("cannot write stdout: {error}"))
}

/// Text becomes binary, a core module that has a component's interface becomes that component, and what results is
/// compiled.
fn compile_here(engine: &Engine, module: &[u8]) -> Result<Vec<u8>, String> {
    let binary = wat::parse_bytes(module).map_err(|error| first_line(&error))?;
    if !binary.starts_with(b"\0asm") {
        return Err("it is neither WebAssembly nor its text form".into());
    }
    let binary = match names_an_interface(&binary) {
        false => binary,
        true => Cow::Owned(as_component(&binary)?),
    };
    let compiled = match is_component(&binary) {
        true => engine.precompile_component(&binary),
        false => engine.precompile_module(&binary),
    };
    compiled.map_err(|error| format!("{error:#}"))
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn is_component(binary: &[u8]) -> bool {
    binary.get(6..8) == Some(&[1, 0])
}

fn as_component(module: &[u8]) -> Result<Vec<u8>, String> {
    let mut encoder = ComponentEncoder::default();
    let component = encoder
        .module(module)
        .and_then(|encoder| encoder.validate(true).encode());
    component.map_err(|error| format!("{error:#}"))
}

/// Whether a core module carries a description of the component it wants to be.
fn names_an_interface(binary: &[u8]) -> bool {
    if is_component(binary) {
        return false;
    }
    let mut rest = binary.get(8..).unwrap_or_default();
    while let Some((id, section, after)) = split_section(rest) {
        if id == 0
            && let Some((length, name)) = split_leb(section)
            && name
                .get(..length)
                .is_some_and(|name| name.starts_with(INTERFACE_SECTION))
        {
            return true;
        }
        rest = after;
    }
    false
}

/// A section: one byte id, its length, its bytes.
fn split_section(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&id, rest) = bytes.split_first()?;
    let (length, rest) = split_leb(rest)?;
    let (section, rest) = rest.split_at_checked(length)?;
    Some((id, section, rest))
}

/// An unsigned LEB128 number of at most 32 bits.
fn split_leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (at, &byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some((usize::try_from(value).ok()?, &bytes[at + 1..]));
        }
    }
    None
}
