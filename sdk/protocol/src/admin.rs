//! Requests of the control stream and their replies. All names are those of the connection's vhost.

use serde::{Deserialize, Serialize};

use bytes::BytesMut;

use crate::frame::{self, Frame, FrameError, Kind};
use crate::{ErrorBody, ErrorCode, Fsync, limits};

/// What a client asks. Large payloads (a module, a message to explain) are the frame's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The broker's state. Reply: [`Reply::Status`].
    Status,
    /// Makes a vhost; it may exist. Reply: [`Reply::Done`].
    DeclareVhost(String),
    /// Deletes an empty vhost. Reply: [`Reply::Done`].
    DeleteVhost(String),
    /// Reply: [`Reply::Names`].
    ListVhosts,
    /// Makes an exchange; it may exist with the same properties. Reply: [`Reply::Done`].
    DeclareExchange(ExchangeSpec),
    /// Deletes an exchange and its bindings. Reply: [`Reply::Done`].
    DeleteExchange {
        /// Its name.
        name: String,
        /// Refuse when it has bindings.
        if_unused: bool,
    },
    /// All, or the one of that name. Reply: [`Reply::Exchanges`].
    ListExchanges(Option<String>),
    /// Makes a queue; it may exist with the same properties. Reply: [`Reply::Queues`] with the one.
    DeclareQueue(QueueSpec),
    /// Deletes a queue and what is in it. Reply: [`Reply::Purged`].
    DeleteQueue {
        /// Its name.
        name: String,
        /// Refuse when it has consumers.
        if_unused: bool,
        /// Refuse when it has messages.
        if_empty: bool,
    },
    /// Removes the messages that wait in a queue, not those delivered and unsettled. Reply: [`Reply::Purged`].
    PurgeQueue(String),
    /// All, or the one of that name. Reply: [`Reply::Queues`].
    ListQueues(Option<String>),
    /// Makes a binding; it may exist. Reply: [`Reply::Done`].
    Bind(BindingSpec),
    /// Removes a binding. Reply: [`Reply::Done`].
    Unbind(BindingSpec),
    /// Reply: [`Reply::Bindings`].
    ListBindings,
    /// Adds a version to a router, making the router if needed. The frame's body is the module, or empty to use
    /// the latest version's. Compiles it and tries `configure`. Reply: [`Reply::RouterVersion`].
    RouterLoad {
        /// The router's name.
        name: String,
        /// Its configuration, handed to `configure` as it is.
        config: Vec<u8>,
        /// Whether to activate it as well, in one step.
        activate: bool,
    },
    /// Makes a version the one that decides, on every exchange of that router at once. Reply: [`Reply::RouterVersion`].
    RouterActivate {
        /// The router's name.
        name: String,
        /// The version.
        version: u32,
    },
    /// Activates the version that was active before. Reply: [`Reply::RouterVersion`].
    RouterRollback(String),
    /// Removes an inactive version, or with `None` the whole router when no exchange uses it. Reply: [`Reply::Done`].
    RouterUnload {
        /// The router's name.
        name: String,
        /// The version, or all of them.
        version: Option<u32>,
    },
    /// All, or the one of that name. Reply: [`Reply::Routers`].
    ListRouters(Option<String>),
    /// The last events of a router, newest last. Reply: [`Reply::RouterLogs`].
    RouterLogs {
        /// The router's name.
        name: String,
        /// At most so many.
        count: u32,
    },
    /// Where a message would go and why, without sending it. The frame's body is the message: its metadata behind a
    /// 4-byte little-endian length, then its body. Reply: [`Reply::Explanation`].
    Explain {
        /// The exchange it would be published to.
        exchange: String,
    },
    /// The module of a router's version as it was uploaded. Reply: [`Reply::RouterModule`].
    RouterModule {
        /// The router's name.
        name: String,
        /// The version.
        version: u32,
    },
    /// Makes a consistent copy of the broker's data folder, for this connection to read. Publishing goes on. There is one
    /// such copy at a time. Takes time in proportion to the data. Reply: [`Reply::Backup`].
    BackupBegin,
    /// Reads a piece of this connection's copy. Reply: [`Reply::BackupPart`].
    BackupRead {
        /// The file, by its place in the list.
        file: u32,
        /// The first byte.
        offset: u64,
    },
    /// Removes this connection's copy; the end of the connection does as well. Reply: [`Reply::Done`].
    BackupEnd,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done, and on disk where it is durable.
    Done,
    /// It was refused.
    Error(ErrorBody),
    /// The broker's state.
    Status(Box<Status>),
    /// Names, sorted.
    Names(Vec<String>),
    /// Exchanges, by name.
    Exchanges(Vec<ExchangeInfo>),
    /// Queues, by name.
    Queues(Vec<QueueInfo>),
    /// Bindings, by source, destination and key.
    Bindings(Vec<BindingSpec>),
    /// How many messages were removed.
    Purged(u64),
    /// The version that was loaded or activated.
    RouterVersion(RouterVersion),
    /// Routers, by name.
    Routers(Vec<RouterInfo>),
    /// Events, oldest first.
    RouterLogs(Vec<RouterEvent>),
    /// Steps of a route.
    Explanation(Explanation),
    /// A module.
    RouterModule(Vec<u8>),
    /// The files of a copy of the data folder, by path.
    Backup(Vec<BackupFile>),
    /// The bytes of a file from the offset that was asked for, at most [`limits::BACKUP_PART_MAX`], without the zeros at
    /// their end.
    BackupPart(Vec<u8>),
}

impl Reply {
    /// Appends the frame of this reply. A reply can be longer than metadata may be, so it travels in the body; one
    /// that is longer than a body may be becomes an error that says so.
    pub fn put(&self, out: &mut BytesMut, id: u64) {
        let mut body = BytesMut::new();
        frame::put_postcard(&mut body, self);
        if body.len() > limits::FRAME_BODY_MAX as usize {
            let message = format!(
                "the reply of {} bytes is over the limit of {}",
                body.len(),
                limits::FRAME_BODY_MAX
            );
            body.clear();
            frame::put_postcard(
                &mut body,
                &Reply::Error(ErrorBody::new(ErrorCode::LimitReached, message)),
            );
        }
        frame::put(out, Kind::Reply, 0, id, &(), &body);
    }

    /// Reads a reply from its frame.
    ///
    /// # Errors
    /// [`FrameError::Meta`] when the body is not a reply.
    pub fn from_frame(frame: &Frame) -> Result<Reply, FrameError> {
        match postcard::take_from_bytes(&frame.content[frame.header.meta_len as usize..]) {
            Ok((reply, [])) => Ok(reply),
            Ok(_) | Err(_) => Err(FrameError::Meta(Kind::Reply)),
        }
    }
}

/// The kinds of exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExchangeKind {
    /// To bindings whose key is the routing key.
    Direct,
    /// To all bindings.
    Fanout,
    /// To bindings whose pattern matches: words between dots, `*` for one word, `#` for any number.
    Topic,
    /// To bindings whose arguments match the headers: all of them, or any with the argument `x-match` = `any`.
    Headers,
    /// To one binding, chosen by a hash of the routing key; the binding key is its weight.
    ConsistentHash,
    /// To the targets a Wasm module names.
    Router,
}

impl ExchangeKind {
    /// All kinds with the names users write.
    pub const NAMES: [(&'static str, ExchangeKind); 6] = [
        ("direct", ExchangeKind::Direct),
        ("fanout", ExchangeKind::Fanout),
        ("topic", ExchangeKind::Topic),
        ("headers", ExchangeKind::Headers),
        ("consistent-hash", ExchangeKind::ConsistentHash),
        ("router", ExchangeKind::Router),
    ];

    /// The name users write.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }
}

/// An exchange as it is declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeSpec {
    /// Its name; names that start with `pointsman.` are the broker's.
    pub name: String,
    /// Its kind.
    pub kind: ExchangeKind,
    /// Whether it is there after a restart.
    pub durable: bool,
    /// Deleted when its last binding goes.
    pub auto_delete: bool,
    /// Where messages go that no binding takes.
    pub alternate: Option<String>,
    /// The router that decides; for kind `Router` only.
    pub router: Option<String>,
}

/// An exchange as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeInfo {
    /// What was declared.
    pub spec: ExchangeSpec,
    /// How many bindings it has.
    pub bindings: u32,
}

/// A queue as it is declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSpec {
    /// Its name; empty asks the broker for one.
    pub name: String,
    /// Whether it and its persistent messages are there after a restart.
    pub durable: bool,
    /// Only this connection may use it, and it goes with the connection.
    pub exclusive: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// When its persistent messages are on disk; otherwise as the broker's setting says.
    pub fsync: Option<Fsync>,
    /// What becomes of its messages when they are consumed.
    pub kind: QueueKind,
    /// Messages that wait longer in a work queue expire, in milliseconds; of this and a message's own expiration the
    /// shorter counts. 1 to [`limits::EXPIRATION_MAX_MS`].
    pub message_ttl_ms: Option<u64>,
}

/// The kinds of queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueKind {
    /// Each message goes to one consumer and leaves the queue when that settles it.
    #[default]
    Work,
    /// Messages are numbered by offset and stay until retention drops them; each consumer reads all of them from
    /// where it starts. Always durable.
    Stream(Retention),
}

impl QueueKind {
    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            QueueKind::Work => "work",
            QueueKind::Stream(_) => "stream",
        }
    }

    /// When a stream drops messages; `None` for a work queue.
    pub fn retention(self) -> Option<Retention> {
        match self {
            QueueKind::Work => None,
            QueueKind::Stream(retention) => Some(retention),
        }
    }
}

/// When a stream drops messages: from the oldest on, as soon as one of the limits asks for it, in groups of messages
/// that were stored together (up to 128 KiB). What a limit says is always there: of `max_bytes`, a group goes only when
/// so many bytes remain without it. Without a limit a stream keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Drop what is older, in milliseconds.
    pub max_age_ms: Option<u64>,
    /// Drop what is behind so many bytes of metadata and bodies.
    pub max_bytes: Option<u64>,
    /// Drop what is behind so many messages.
    pub max_messages: Option<u64>,
}

/// A queue as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueInfo {
    /// What was declared.
    pub spec: QueueSpec,
    /// Messages waiting for a consumer; in a stream, all that are there.
    pub ready: u64,
    /// Messages delivered and not settled.
    pub unsettled: u64,
    /// Consumers.
    pub consumers: u32,
    /// Messages ever put in since the queue was made.
    pub published: u64,
    /// Messages acknowledged since the broker started.
    pub acked: u64,
    /// Messages redelivered since the broker started.
    pub redelivered: u64,
    /// Messages that expired since the broker started.
    pub expired: u64,
    /// Messages that wait for the end of their delay to enter it; they are not in `ready`.
    pub delayed: u64,
    /// What a confirm of a persistent message promises: the queue's own setting, or else the broker's.
    pub fsync: Fsync,
    /// What there is in it, for a stream.
    pub stream: Option<StreamInfo>,
}

/// What there is in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// The offset of the first message that is there.
    pub first_offset: u64,
    /// The offset the next message gets; the stream is empty when it is the first.
    pub next_offset: u64,
    /// Bytes of metadata and bodies between them.
    pub bytes: u64,
}

/// A binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BindingSpec {
    /// The exchange messages come from.
    pub source: String,
    /// Where they go.
    pub destination: Destination,
    /// The binding key: its meaning is the exchange kind's. For a router exchange it is the target's name.
    pub key: String,
    /// Arguments, sorted by name; the headers kind matches them.
    pub arguments: Vec<(String, Argument)>,
}

/// The end of a binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Destination {
    /// A queue by name.
    Queue(String),
    /// An exchange by name.
    Exchange(String),
}

/// The value of a binding argument. Unlike a header it is never a float, so that bindings can be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Argument {
    /// True or false.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// One version of a router: a module and its configuration, immutable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterVersion {
    /// The router's name.
    pub router: String,
    /// Numbered from 1; a number is never used again.
    pub version: u32,
    /// SHA-256 of the module as it was uploaded.
    pub digest: [u8; 32],
    /// The module's size, in bytes.
    pub size: u64,
    /// The interface it has.
    pub interface: Interface,
    /// The configuration.
    pub config: Vec<u8>,
    /// When it was loaded, in milliseconds since the Unix epoch.
    pub loaded_at: u64,
    /// Whether it is the one that decides.
    pub active: bool,
}

/// How a module and the broker exchange messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Interface {
    /// A component with records and lists.
    Typed,
    /// A component with packed bytes.
    Packed,
    /// A core module with packed bytes.
    Core,
}

/// A router as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInfo {
    /// Its name.
    pub name: String,
    /// The version that decides, if any.
    pub active: Option<u32>,
    /// The version that decided before.
    pub previous: Option<u32>,
    /// All loaded versions, oldest first.
    pub versions: Vec<RouterVersion>,
    /// The exchanges that use it, by name.
    pub exchanges: Vec<String>,
    /// What it did since the broker started.
    pub counters: RouterCounters,
}

/// What a router did since the broker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterCounters {
    /// Messages decided by calling the module.
    pub routed: u64,
    /// Messages decided from the decision cache.
    pub cached: u64,
    /// Messages it rejected.
    pub rejected: u64,
    /// Calls of the module.
    pub batches: u64,
    /// Time spent in the module, in nanoseconds.
    pub busy_ns: u64,
    /// Traps, timeouts and malformed answers.
    pub failures: u64,
    /// The last version that said its decisions may be remembered and was caught deciding by something it had not
    /// declared. Its decisions are not remembered until the broker starts again.
    pub cache_off: Option<u32>,
}

/// Something a router did or said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
    /// Which version.
    pub version: u32,
    /// What happened, as a sentence.
    pub text: String,
}

/// The broker's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the broker.
    pub version: String,
    /// Where its data is.
    pub data_dir: String,
    /// Time since it started, in milliseconds.
    pub uptime_ms: u64,
    /// What a confirm promises: `always`, `interval:100ms` or `never`.
    pub fsync: String,
    /// Open connections.
    pub connections: u64,
    /// Exchanges, queues, bindings and routers of all vhosts.
    pub exchanges: u64,
    /// Queues of all vhosts.
    pub queues: u64,
    /// Bindings of all vhosts.
    pub bindings: u64,
    /// Routers of all vhosts.
    pub routers: u64,
    /// Messages waiting in all queues.
    pub ready: u64,
    /// Messages delivered and not settled.
    pub unsettled: u64,
    /// Messages taken since start.
    pub published: u64,
    /// Messages delivered since start.
    pub delivered: u64,
    /// Messages that expired since start.
    pub expired: u64,
    /// Messages that wait for the end of their delay, in each of their queues.
    pub delayed: u64,
    /// Commits written since start.
    pub commits: u64,
    /// Why publishes are blocked, when they are.
    pub blocked: Option<String>,
    /// Figures of the store by name, for people and dashboards.
    pub store: Vec<(String, u64)>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its path in the data folder, with `/` between the parts.
    pub path: String,
    /// Its length, in bytes.
    pub len: u64,
}

/// Where a message would go and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One step an exchange, in the order they are visited.
    pub steps: Vec<ExplainStep>,
    /// The queues it would be in, by name.
    pub queues: Vec<String>,
    /// Why it would be rejected, when it would.
    pub rejected: Option<String>,
}

/// What one exchange would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainStep {
    /// The exchange.
    pub exchange: String,
    /// Its kind.
    pub kind: ExchangeKind,
    /// The router version that decided, such as `orders@2`; empty for other kinds.
    pub decided_by: String,
    /// The bindings that took the message.
    pub matched: Vec<BindingSpec>,
    /// A remark as a sentence, such as why nothing matched; may be empty.
    pub remark: String,
}
