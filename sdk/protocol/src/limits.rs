//! Bounds of the wire. Both ends enforce them; the broker's own bounds are in `pointsman-core`'s `limits.rs`.

/// Longest metadata of one frame, in bytes.
pub const FRAME_META_MAX: u32 = 256 * 1024;

/// Longest body a broker ever accepts, in bytes. A broker's configured maximum may be lower.
pub const FRAME_BODY_MAX: u32 = 128 * 1024 * 1024;

/// Longest name of an exchange, queue, router, vhost or user, in bytes.
pub const NAME_MAX: usize = 255;

/// Longest routing or binding key, in bytes.
pub const KEY_MAX: usize = 255;

/// Largest UDP payload either end takes, and tries to send once path MTU discovery finds that it passes (loopback, networks
/// with jumbo frames), in bytes. Far fewer packets to encrypt; ten of them still fit one segmented send of the system.
pub const UDP_PAYLOAD_MAX: u16 = 6_000;
/// So many packets each side lets the other receive before it says so (draft-ietf-quic-ack-frequency); QUIC's own rule is
/// every other one. What is sent anyway carries it sooner.
pub const PACKETS_AN_ACK: u32 = 10;

/// Most user headers of one message.
pub const HEADERS_MAX: usize = 256;

/// Longest time a message may wait before it enters its queues, in milliseconds: a year.
pub const DELAY_MAX_MS: u64 = 365 * 24 * 60 * 60 * 1_000;

/// Longest time to live of a message, its own or its queue's, in milliseconds: a year.
pub const EXPIRATION_MAX_MS: u64 = 365 * 24 * 60 * 60 * 1_000;

/// Most publishes a publisher may have unconfirmed, in messages.
pub const PUBLISH_WINDOW_MAX: u32 = 65_536;

/// Most deliveries a consumer may have unsettled, in messages.
pub const PREFETCH_MAX: u32 = 65_535;

/// Most streams (publishers and consumers) one connection may have open.
pub const STREAMS_MAX: u32 = 4_096;

/// Most requests a connection may have unanswered.
pub const REQUESTS_MAX: usize = 256;

/// Most bytes of a backup in one reply.
pub const BACKUP_PART_MAX: u32 = 1024 * 1024;
