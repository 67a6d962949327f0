//! The packed contract: how targets, plans, batches and decisions are laid out in bytes.
//!
//! This is the reference for other languages and what both sides are made of: the broker uses the *host* halves
//! ([`encode_targets`], [`Plan::decode`], [`BatchEncoder`], [`Decisions`]), a module the *guest* halves
//! ([`Targets::decode`], [`Plan::encode`], [`Batch`], [`DecisionEncoder`]). A Rust author meets none of it.
//!
//! All numbers are little-endian. Nothing is aligned. Texts are UTF-8. Every blob starts with the layout's version,
//! one byte, now 1, and grows by new flag bits, field bits and kinds: a reader refuses what it does not know.
//!
//! ## Targets, to `configure`
//!
//! | bytes | |
//! |---|---|
//! | 1 | version |
//! | 3 | zero |
//! | 4 | count |
//! | 2 + n, *count* times | length and name of a target; its number is its place here, from 0 |
//!
//! Names are binding keys and differ: bindings of one exchange with the same key are one target.
//!
//! ## Plan, from `configure`
//!
//! | bytes | |
//! |---|---|
//! | 1 | version |
//! | 1 | flags: bit 0 *cacheable*: decisions depend on nothing but the declared fields |
//! | 2 | number of headers |
//! | 4 | [`Field`] bits |
//! | 4 | how much of a body's beginning is needed, in bytes; 0 for nothing |
//! | 2 + n, for each header | length and name |
//! | 2 | number of unbound names |
//! | 2 + n, for each | a name the configuration gives a target and no binding has; the broker warns of it |
//!
//! ## Batch, to `route`
//!
//! | bytes | |
//! |---|---|
//! | 1 | version |
//! | 1 | zero |
//! | 2 | slots of a message |
//! | 4 | number of messages |
//! | 8 × slots, for each message | slots |
//! | rest | what the slots point to |
//!
//! A slot is an offset from the batch's start and a length, 4 bytes each; an offset of 0 says that the message does
//! not have it. The plan decides which slots there are: one for each declared [`Field`] in the order of their bits,
//! one for each declared header in the plan's order, and one for the body if any of it was declared.
//!
//! | slot | content |
//! |---|---|
//! | routing key, message id, content type, content encoding, correlation id, reply-to | the text |
//! | persistent, priority | 1 byte |
//! | timestamp, expiration | 8 bytes, milliseconds |
//! | a header | its *value* |
//! | all headers | 2 bytes count; for each: 2 bytes length, name, 4 bytes length, *value* |
//! | the body | 4 bytes length of the whole body, then its beginning |
//!
//! A *value* is one byte kind and its bytes: 0 bool (1 byte), 1 int (8 bytes), 2 float (8 bytes, IEEE 754),
//! 3 text, 4 bytes.
//!
//! ## Decisions, from `route`
//!
//! | bytes | |
//! |---|---|
//! | 1 | version |
//! | 3 | zero |
//! | 4 | count: the batch's number of messages |
//! | *count* times | a decision |
//!
//! A decision is one byte kind and what the kind says; they follow each other without gaps:
//!
//! | kind | | |
//! |---|---|---|
//! | 0 | unroutable | nothing |
//! | 1 | to one target | 4 bytes target |
//! | 2 | to several | 4 bytes count, 4 bytes each |
//! | 3 | to some, changed | 4 bytes count, a *delivery* each |
//! | 4 | reject | 2 bytes length, the reason |
//!
//! A *delivery* is 4 bytes target, 4 bytes [`Change`] bits, and for each bit set, in their order:
//!
//! | bit | change | |
//! |---|---|---|
//! | 0 | routing key | 2 bytes length, text |
//! | 1 | priority | 1 byte |
//! | 2 | expiration | 8 bytes, milliseconds |
//! | 3 | headers to remove | 2 bytes count; for each: 2 bytes length, name |
//! | 4 | headers to set | 2 bytes count; for each: 2 bytes length, name, 4 bytes length, *value* |
//! | 5 | body | 4 bytes length, bytes |
//! | 6 | delay | 8 bytes, milliseconds |
//!
//! Since nothing is pointed to, an answer cannot make the broker do more than its own length.
//!
//! ## Core modules
//!
//! A module that is not a component exports `memory` and three functions; pointers and lengths are bytes:
//!
//! | export | |
//! |---|---|
//! | `alloc(len: i32) -> i32` | room for one argument, until the call it is made for returns |
//! | `configure(config: i32, len: i32, targets: i32, len: i32) -> i64` | pointer in the upper half, length in the lower, of: one byte 0 and a plan, or one byte 1 and a sentence |
//! | `route(batch: i32, len: i32) -> i64` | pointer and length of the decisions |
//!
//! What they return stays in place until the next call.

mod batch;
mod bytes;
mod decisions;
mod plan;
mod targets;

pub use batch::{Batch, BatchEncoder, Fields};
pub use bytes::PackedError;
pub use decisions::{Change, Changes, DecisionEncoder, DecisionView, Decisions, DeliveryView, TargetNumbers};
pub use plan::{Field, Plan};
pub use targets::{Targets, encode_targets};

pub(crate) use batch::{decode_slot_headers, decode_slot_value};
pub(crate) use bytes::{decode_value, encode_header, encode_text, encode_value};

/// The version of every layout here.
pub const VERSION: u8 = 1;

/// Most headers a plan may name.
pub const PLAN_HEADERS_MAX: usize = 64;
/// Most unbound names a plan carries; the SDK leaves the rest out.
pub const PLAN_UNBOUND_MAX: usize = 64;
/// Longest header or target name and routing key, in bytes.
pub const NAME_MAX: usize = 255;
/// Most headers one delivery may set, and most it may remove.
pub const CHANGED_HEADERS_MAX: usize = 256;
/// Longest reason of a rejection, in bytes; the SDK cuts longer ones.
pub const REASON_MAX: usize = 1_024;
