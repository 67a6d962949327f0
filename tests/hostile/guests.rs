//! Modules that misbehave, written by hand against the core interface.
//!
//! Each is the same honest module, which sends every message to target 0, with one function or line replaced.

/// The parts of a module that a hostile one replaces.
pub(crate) struct Parts {
    /// Imports and globals.
    pub(crate) head: &'static str,
    /// Body of `configure`, before it answers the plan.
    pub(crate) configure: &'static str,
    /// Body of `route`, before it answers. The batch is at `$batch`.
    pub(crate) route: &'static str,
    /// For each message, before its decision is written. The message's number is `$at`.
    pub(crate) message: &'static str,
    /// What is added to the number of decisions.
    pub(crate) miscount: u32,
    /// The target that every message goes to.
    pub(crate) target: u32,
    /// Whether its plan says that decisions depend on nothing but the routing key.
    pub(crate) cacheable: bool,
}

/// A module that does what it should.
pub(crate) const HONEST: Parts = Parts {
    head: "",
    configure: "",
    route: "",
    message: "",
    miscount: 0,
    target: 0,
    cacheable: false,
};

/// Reads the first byte of the routing key of message `$at` onto the stack: its slot is at batch + 8 + 8 * at.
pub(crate) const FIRST_BYTE_OF_KEY: &str = "(i32.load8_u (i32.add (local.get $batch)
    (i32.load offset=8 (i32.add (local.get $batch) (i32.mul (local.get $at) (i32.const 8))))))";

/// The text of a module.
pub(crate) fn module(parts: &Parts) -> String {
    let Parts {
        head,
        configure,
        route,
        message,
        miscount,
        target,
        cacheable,
    } = parts;
    // The plan at 16: an answer of kind 0, then version, flags, no headers, the routing key's bit, no body, no names.
    // Arguments are put at 4096, decisions are written from 65536 on.
    format!(
        r#"(module {head}
        (memory (export "memory") 2)
        (data (i32.const 16) "\00" "\01\0{flags}" "\00\00" "\01\00\00\00" "\00\00\00\00" "\00\00")
        (func (export "alloc") (param i32) (result i32) (i32.const 4096))
        (func (export "configure") (param i32 i32 i32 i32) (result i64)
            {configure}
            (i64.const {plan}))
        (func (export "route") (param $batch i32) (param i32) (result i64)
            (local $at i32) (local $count i32) (local $out i32)
            {route}
            (local.set $count (i32.load offset=4 (local.get $batch)))
            (i32.store (i32.const 65536) (i32.const 1))
            (i32.store (i32.const 65540) (i32.add (local.get $count) (i32.const {miscount})))
            (local.set $out (i32.const 65544))
            (block $done (loop $next
                (br_if $done (i32.ge_u (local.get $at) (local.get $count)))
                {message}
                (i32.store8 (local.get $out) (i32.const 1))
                (i32.store offset=1 (local.get $out) (i32.const {target}))
                (local.set $out (i32.add (local.get $out) (i32.const 5)))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))
            (i64.or (i64.const {answer})
                (i64.extend_i32_u (i32.sub (local.get $out) (i32.const 65536))))))"#,
        flags = u8::from(*cacheable),
        plan = (16u64 << 32) + 15,
        answer = 65536u64 << 32,
    )
}

/// Traps when the routing key starts with `p`.
pub(crate) fn traps_on_poison() -> String {
    let message = format!("(if (i32.eq {FIRST_BYTE_OF_KEY} (i32.const 112)) (then unreachable))");
    module(&Parts {
        message: message.leak(),
        ..HONEST
    })
}

/// Loops for ever when the routing key starts with `p`.
pub(crate) fn loops_on_poison() -> String {
    let message = format!("(if (i32.eq {FIRST_BYTE_OF_KEY} (i32.const 112)) (then (loop $l (br $l))))");
    module(&Parts {
        message: message.leak(),
        ..HONEST
    })
}

/// Says that it decides by the routing key alone, but finds no target from the third message on that it sees.
pub(crate) fn lies_about_its_plan() -> String {
    module(&Parts {
        head: "(global $seen (mut i32) (i32.const 0))",
        message: "(global.set $seen (i32.add (global.get $seen) (i32.const 1)))
            (if (i32.ge_u (global.get $seen) (i32.const 3)) (then
                (i32.store8 (local.get $out) (i32.const 0))
                (local.set $out (i32.add (local.get $out) (i32.const 1)))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))",
        cacheable: true,
        ..HONEST
    })
}
