//! Making and checking what is declared: exchanges, queues, bindings and their names.

use std::time::Duration;

use crate::admin::{
    Argument, BindingSpec, Destination, ExchangeKind, ExchangeSpec, QueueKind, QueueSpec, Retention,
};
use crate::error::{ErrorBody, ErrorCode};
use crate::{Fsync, limits};

impl ExchangeSpec {
    /// A durable exchange of a kind, without an alternate.
    pub fn new(name: impl Into<String>, kind: ExchangeKind) -> ExchangeSpec {
        ExchangeSpec {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            alternate: None,
            router: None,
        }
    }

    /// A durable exchange that sends to the bindings whose key is the routing key.
    pub fn direct(name: impl Into<String>) -> ExchangeSpec {
        ExchangeSpec::new(name, ExchangeKind::Direct)
    }

    /// A durable exchange that sends to all its bindings.
    pub fn fanout(name: impl Into<String>) -> ExchangeSpec {
        ExchangeSpec::new(name, ExchangeKind::Fanout)
    }

    /// A durable exchange that matches patterns of words, such as `order.*.eu` or `order.#`.
    pub fn topic(name: impl Into<String>) -> ExchangeSpec {
        ExchangeSpec::new(name, ExchangeKind::Topic)
    }

    /// A durable exchange that matches headers with the bindings' arguments.
    pub fn headers(name: impl Into<String>) -> ExchangeSpec {
        ExchangeSpec::new(name, ExchangeKind::Headers)
    }

    /// A durable exchange that sends equal routing keys to the same binding.
    pub fn consistent_hash(name: impl Into<String>) -> ExchangeSpec {
        ExchangeSpec::new(name, ExchangeKind::ConsistentHash)
    }

    /// A durable exchange whose Wasm router, loaded under that name, decides.
    pub fn router(name: impl Into<String>, router: impl Into<String>) -> ExchangeSpec {
        let mut spec = ExchangeSpec::new(name, ExchangeKind::Router);
        spec.router = Some(router.into());
        spec
    }

    /// Gone after a restart.
    pub fn transient(mut self) -> ExchangeSpec {
        self.durable = false;
        self
    }

    /// Deleted when its last binding goes.
    pub fn auto_delete(mut self) -> ExchangeSpec {
        self.auto_delete = true;
        self
    }

    /// Sends what no binding takes to another exchange.
    pub fn alternate(mut self, exchange: impl Into<String>) -> ExchangeSpec {
        self.alternate = Some(exchange.into());
        self
    }

    /// Checks what can be checked without knowing the broker's state.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name, or a router on another kind, or none on the kind `Router`.
    pub fn check(&self) -> Result<(), ErrorBody> {
        check_name("exchange", &self.name)?;
        if let Some(alternate) = &self.alternate {
            check_name("alternate exchange", alternate)?;
        }
        match (&self.router, self.kind) {
            (Some(router), ExchangeKind::Router) => check_name("router", router),
            (None, ExchangeKind::Router) => Err(invalid(format!(
                "the router exchange {:?} names no router",
                self.name
            ))),
            (Some(_), kind) => Err(invalid(format!(
                "the {} exchange {:?} names a router, which only the kind router uses",
                kind.name(),
                self.name
            ))),
            (None, _) => Ok(()),
        }
    }
}

impl QueueSpec {
    /// A durable queue that any connection may use. An empty name asks the broker for one.
    pub fn new(name: impl Into<String>) -> QueueSpec {
        QueueSpec {
            name: name.into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            fsync: None,
            kind: QueueKind::Work,
            message_ttl_ms: None,
        }
    }

    /// Messages that wait longer in this work queue expire, to the millisecond and after at least one.
    pub fn message_ttl(mut self, ttl: Duration) -> QueueSpec {
        self.message_ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        self
    }

    /// With a setting of its own for when persistent messages are on disk; those of a stream all count as persistent.
    pub fn fsync(mut self, fsync: Fsync) -> QueueSpec {
        self.fsync = Some(fsync);
        self
    }

    /// A stream that keeps everything, unless told otherwise by [`QueueSpec::max_age`], [`QueueSpec::max_bytes`] and
    /// [`QueueSpec::max_messages`].
    pub fn stream(name: impl Into<String>) -> QueueSpec {
        let mut spec = QueueSpec::new(name);
        spec.kind = QueueKind::Stream(Retention::default());
        spec
    }

    /// A stream drops what is older, to the millisecond. Makes it a stream.
    pub fn max_age(self, age: Duration) -> QueueSpec {
        self.retain(|retention| {
            retention.max_age_ms = Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        })
    }

    /// A stream drops what is behind so many bytes of metadata and bodies. Makes it a stream.
    pub fn max_bytes(self, bytes: u64) -> QueueSpec {
        self.retain(|retention| retention.max_bytes = Some(bytes))
    }

    /// A stream drops what is behind so many messages. Makes it a stream.
    pub fn max_messages(self, messages: u64) -> QueueSpec {
        self.retain(|retention| retention.max_messages = Some(messages))
    }

    fn retain(mut self, set: impl FnOnce(&mut Retention)) -> QueueSpec {
        let mut retention = match self.kind {
            QueueKind::Work => Retention::default(),
            QueueKind::Stream(retention) => retention,
        };
        set(&mut retention);
        self.kind = QueueKind::Stream(retention);
        self
    }

    /// Gone after a restart, with its messages.
    pub fn transient(mut self) -> QueueSpec {
        self.durable = false;
        self
    }

    /// For this connection only, and gone with it.
    pub fn exclusive(mut self) -> QueueSpec {
        self.exclusive = true;
        self
    }

    /// Deleted when its last consumer goes.
    pub fn auto_delete(mut self) -> QueueSpec {
        self.auto_delete = true;
        self
    }

    /// Checks the name, which may be empty here, the interval, and that the kind goes with the rest.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name, an interval or a message TTL out of range, and for a stream that is transient,
    /// exclusive or auto-delete, has a message TTL, or has a limit of 0.
    pub fn check(&self) -> Result<(), ErrorBody> {
        if let Some(fsync) = self.fsync.filter(|fsync| !fsync.is_valid()) {
            let message = format!("the fsync setting {fsync} is out of range: an interval has 1 to 60000 ms");
            return Err(ErrorBody::new(ErrorCode::InvalidArgument, message));
        }
        if !self.name.is_empty() {
            check_name("queue", &self.name)?;
        }
        if let Some(ttl) = self.message_ttl_ms
            && !(1..=limits::EXPIRATION_MAX_MS).contains(&ttl)
        {
            return Err(invalid(format!(
                "the queue {:?} has a message TTL of {ttl} ms, which is out of range: 1 to {}",
                self.name,
                limits::EXPIRATION_MAX_MS
            )));
        }
        match self.kind {
            QueueKind::Work => Ok(()),
            QueueKind::Stream(retention) => self.check_stream(retention),
        }
    }

    fn check_stream(&self, retention: Retention) -> Result<(), ErrorBody> {
        let properties = [
            (!self.durable, "transient"),
            (self.exclusive, "exclusive"),
            (self.auto_delete, "auto-delete"),
        ];
        if let Some((_, property)) = properties.into_iter().find(|(is, _)| *is) {
            return Err(invalid(format!("the stream {:?} is {property}", self.name))
                .hint("a stream is durable and belongs to everyone"));
        }
        if self.message_ttl_ms.is_some() {
            return Err(invalid(format!("the stream {:?} has a message TTL", self.name))
                .hint("a stream drops by max-age"));
        }
        let limits = [
            (retention.max_age_ms, "max-age"),
            (retention.max_bytes, "max-bytes"),
            (retention.max_messages, "max-messages"),
        ];
        match limits.into_iter().find(|(limit, _)| *limit == Some(0)) {
            Some((_, name)) => Err(invalid(format!(
                "the stream {:?} has the {name} 0 and would keep nothing",
                self.name
            ))
            .hint("leave the limit out to keep everything")),
            None => Ok(()),
        }
    }
}

impl BindingSpec {
    /// A binding from an exchange to a queue.
    pub fn to_queue(
        source: impl Into<String>,
        queue: impl Into<String>,
        key: impl Into<String>,
    ) -> BindingSpec {
        BindingSpec {
            source: source.into(),
            destination: Destination::Queue(queue.into()),
            key: key.into(),
            arguments: Vec::new(),
        }
    }

    /// A binding from an exchange to an exchange.
    pub fn to_exchange(
        source: impl Into<String>,
        exchange: impl Into<String>,
        key: impl Into<String>,
    ) -> BindingSpec {
        BindingSpec {
            source: source.into(),
            destination: Destination::Exchange(exchange.into()),
            key: key.into(),
            arguments: Vec::new(),
        }
    }

    /// With an argument; one of the same name is replaced. Arguments stay sorted.
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Argument>) -> BindingSpec {
        let (name, value) = (name.into(), value.into());
        match self.arguments.binary_search_by(|(n, _)| n.cmp(&name)) {
            Ok(at) => self.arguments[at].1 = value,
            Err(at) => self.arguments.insert(at, (name, value)),
        }
        self
    }

    /// Sorts the arguments by name, so that equal bindings compare as equal whoever wrote them.
    pub fn sort_arguments(&mut self) {
        self.arguments.sort();
    }

    /// Checks what can be checked without knowing the broker's state.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad name or key, arguments out of order or given twice, or more of them than
    /// [`limits::HEADERS_MAX`].
    pub fn check(&self) -> Result<(), ErrorBody> {
        check_name("exchange", &self.source)?;
        match &self.destination {
            Destination::Queue(queue) => check_name("queue", queue)?,
            Destination::Exchange(exchange) => check_name("exchange", exchange)?,
        }
        check_key("binding key", &self.key)?;
        if self.arguments.len() > limits::HEADERS_MAX {
            return Err(invalid(format!(
                "{} binding arguments are over the limit of {}",
                self.arguments.len(),
                limits::HEADERS_MAX
            )));
        }
        match self.arguments.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            Some(pair) => Err(invalid(format!(
                "the binding argument {:?} is given twice or out of order",
                pair[1].0
            ))),
            None => Ok(()),
        }
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Argument {
        Argument::Bool(value)
    }
}

impl From<i32> for Argument {
    fn from(value: i32) -> Argument {
        Argument::Int(value.into())
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Argument {
        Argument::Int(value)
    }
}

impl From<&str> for Argument {
    fn from(value: &str) -> Argument {
        Argument::Str(value.to_owned())
    }
}

impl From<String> for Argument {
    fn from(value: String) -> Argument {
        Argument::Str(value)
    }
}

impl From<Vec<u8>> for Argument {
    fn from(value: Vec<u8>) -> Argument {
        Argument::Bytes(value)
    }
}

/// Checks a name: 1 to [`limits::NAME_MAX`] bytes without control characters. `what` says in the error what it
/// names, such as `queue`.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_name(what: &str, name: &str) -> Result<(), ErrorBody> {
    if name.is_empty() {
        return Err(invalid(format!("the name of the {what} is empty")));
    }
    if name.len() > limits::NAME_MAX {
        return Err(invalid(format!(
            "the name of the {what} has {} bytes; the limit is {}",
            name.len(),
            limits::NAME_MAX
        )));
    }
    no_control_characters(&format!("name of the {what}"), name)
}

/// Checks a routing or binding key: up to [`limits::KEY_MAX`] bytes without control characters; it may be empty.
///
/// # Errors
/// `InvalidArgument`.
pub fn check_key(what: &str, key: &str) -> Result<(), ErrorBody> {
    if key.len() > limits::KEY_MAX {
        return Err(invalid(format!(
            "the {what} has {} bytes; the limit is {}",
            key.len(),
            limits::KEY_MAX
        )));
    }
    no_control_characters(what, key)
}

fn no_control_characters(what: &str, text: &str) -> Result<(), ErrorBody> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(invalid(format!(
            "the {what} {text:?} contains the control character {c:?}"
        ))),
        None => Ok(()),
    }
}

fn invalid(message: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_when_empty_too_long_or_with_control_characters() {
        assert!(check_name("queue", "orders.eu/größe").is_ok());
        assert!(check_name("queue", &"q".repeat(limits::NAME_MAX)).is_ok());
        for bad in ["", "a\nb", "a\0", &"q".repeat(limits::NAME_MAX + 1)] {
            let error = check_name("queue", bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{bad:?}");
            assert!(error.message.contains("queue"), "{error}");
        }
    }

    #[test]
    fn a_key_may_be_empty_but_not_too_long() {
        assert!(check_key("routing key", "").is_ok());
        assert!(check_key("routing key", &"k".repeat(limits::KEY_MAX + 1)).is_err());
    }

    #[test]
    fn arguments_stay_sorted_and_the_last_value_of_a_name_wins() {
        let binding = BindingSpec::to_queue("x", "q", "")
            .argument("b", 1)
            .argument("a", true)
            .argument("b", 2);
        assert_eq!(
            binding.arguments,
            [
                ("a".to_owned(), Argument::Bool(true)),
                ("b".to_owned(), Argument::Int(2))
            ]
        );
        assert!(binding.check().is_ok());
    }

    #[test]
    fn arguments_out_of_order_are_refused_until_sorted() {
        let mut binding = BindingSpec::to_queue("x", "q", "");
        binding.arguments = vec![("b".into(), 1.into()), ("a".into(), 2.into())];
        assert!(binding.check().is_err());
        binding.sort_arguments();
        assert!(binding.check().is_ok());
        binding.arguments.push(("b".into(), 3.into()));
        assert!(binding.check().is_err(), "given twice");
    }

    #[test]
    fn a_stream_is_durable_shared_and_keeps_something() {
        let limited = QueueSpec::new("s")
            .max_age(Duration::from_secs(1))
            .max_messages(5);
        let retention = Retention {
            max_age_ms: Some(1_000),
            max_bytes: None,
            max_messages: Some(5),
        };
        assert_eq!(limited.kind, QueueKind::Stream(retention));
        assert!(limited.check().is_ok() && QueueSpec::stream("").check().is_ok());
        let bad = [
            ("transient", QueueSpec::stream("s").transient()),
            ("exclusive", QueueSpec::stream("s").exclusive()),
            ("auto-delete", QueueSpec::stream("s").auto_delete()),
            ("max-age", QueueSpec::stream("s").max_age(Duration::ZERO)),
            ("max-bytes", QueueSpec::stream("s").max_bytes(0)),
            ("max-messages", QueueSpec::stream("s").max_messages(0)),
        ];
        for (what, spec) in bad {
            let error = spec.check().unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains(what), "{error}");
        }
    }

    #[test]
    fn a_router_belongs_to_the_kind_router_only() {
        assert!(ExchangeSpec::router("x", "orders").check().is_ok());
        assert!(ExchangeSpec::new("x", ExchangeKind::Router).check().is_err());
        let mut direct = ExchangeSpec::direct("x");
        direct.router = Some("orders".into());
        assert!(direct.check().is_err());
    }
}
