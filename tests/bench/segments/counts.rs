//! Instructions and copied bytes, counted by valgrind: the same in every run, however busy the machine is.
//!
//! The program runs itself under callgrind and under dhat, one segment at a time. What is counted is what
//! [`measured_batch`] calls; making batches ready is not. A copy is a call of `memcpy` or the like: what the compiler
//! makes a few moves of is among the instructions only, and so is what `realloc` copies.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::segment::{Limit, Segment, Work};

/// Batches before counting begins, so that what happens once is not counted.
const WARM_UP: usize = 4;
/// Batches that are counted.
const BATCHES: usize = 16;

/// The function under which everything is counted; the tools know it by this name.
const MEASURED: &str = "measured_batch";

/// What one message takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counts {
    /// Instructions.
    pub(crate) instructions: f64,
    /// Copies.
    pub(crate) copies: f64,
    /// Bytes copied.
    pub(crate) copied: f64,
}

/// Whether valgrind is there.
pub(crate) fn can_count() -> bool {
    Command::new("valgrind")
        .arg("--version")
        .output()
        .is_ok_and(|run| run.status.success())
}

impl Segment {
    /// Whether it does the same work each time, in this thread alone, and is ready soon enough.
    pub(crate) fn is_countable(&self) -> bool {
        matches!(self.limit, Limit::Copy(_)) && self.is_native && !self.name.contains("100000")
    }

    /// Counts, in processes of their own.
    ///
    /// # Panics
    /// When a tool does not do what it should.
    pub(crate) fn count(&self) -> Counts {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let out = folder.path().join("out");
        let toggle = format!("--toggle-collect=*{MEASURED}*");
        self.run_under(&["--tool=callgrind", &toggle], "callgrind", &out);
        let instructions = instructions(&read(&out));
        self.run_under(&["--tool=dhat", "--mode=copy", "--num-callers=100"], "dhat", &out);
        let (copies, copied) = copies(&read(&out));
        let each = |count: u64| count as f64 / (BATCHES * self.messages) as f64;
        Counts {
            instructions: each(instructions),
            copies: each(copies),
            copied: each(copied),
        }
    }

    fn run_under(&self, tool: &[&str], name: &str, out: &Path) {
        let this = std::env::current_exe().expect("a program knows its own file");
        let run = Command::new("valgrind")
            .args(tool)
            .arg(format!("--{name}-out-file={}", out.display()))
            .arg(this)
            .args(["--run", &self.name])
            .output()
            .expect("valgrind runs");
        assert!(
            run.status.success(),
            "{}: {}",
            self.name,
            String::from_utf8_lossy(&run.stderr)
        );
    }

    /// What runs under a tool.
    pub(crate) fn run(self) {
        let mut work = (self.make)();
        for _ in 0..WARM_UP {
            work.prepare();
            work.run();
        }
        for _ in 0..BATCHES {
            work.prepare();
            measured_batch(&mut *work);
        }
    }
}

#[inline(never)]
fn measured_batch(work: &mut dyn Work) {
    work.run();
    // Something is left to do, or the call above would be a jump and this function not on the stack.
    black_box(());
}

fn read(out: &Path) -> String {
    std::fs::read_to_string(out).expect("the tool writes what it counted")
}

/// The sum that callgrind writes.
fn instructions(out: &str) -> u64 {
    let sum = out.lines().find_map(|line| line.strip_prefix("summary: "));
    sum.and_then(|sum| sum.trim().parse().ok())
        .expect("callgrind writes a sum")
}

/// Copies and bytes of the places in the program that [`measured_batch`] leads to.
fn copies(out: &str) -> (u64, u64) {
    let out: Value = serde_json::from_str(out).expect("dhat writes JSON");
    let list = |name: &str| out[name].as_array().cloned().unwrap_or_default();
    let frames = list("ftbl");
    let is_measured = |frame: &Value| {
        let text = frame
            .as_u64()
            .and_then(|frame| frames.get(frame as usize)?.as_str());
        text.is_some_and(|text| text.contains(MEASURED))
    };
    let number = |place: &Value, name: &str| place[name].as_u64().unwrap_or_default();
    list("pps")
        .iter()
        .filter(|place| {
            place["fs"]
                .as_array()
                .is_some_and(|stack| stack.iter().any(is_measured))
        })
        .fold((0, 0), |(copies, bytes), place| {
            (copies + number(place, "tbk"), bytes + number(place, "tb"))
        })
}
