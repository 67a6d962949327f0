//! Trying a router in plain `cargo test`, through the same bytes as in the broker.
//!
//! ```
//! # use pointsman_router::{Decision, Message, Plan, Router, Target, Targets};
//! # struct MyRouter(Target);
//! # impl Router for MyRouter {
//! #     fn configure(_: &[u8], targets: &Targets) -> Result<(Self, Plan), String> {
//! #         Ok((MyRouter(targets.named("paid")), Plan::new().routing_key()))
//! #     }
//! #     fn route(&mut self, _: &Message<'_>) -> Decision { Decision::to(self.0) }
//! # }
//! use pointsman_router::testing::{TestMessage, Trial};
//!
//! let mut router = Trial::<MyRouter>::new("", &["paid", "other"])?;
//! let routed = router.route(&TestMessage::new("order.paid").header("tier", "gold"));
//! assert_eq!(routed.targets(), ["paid"]);
//! # Ok::<(), String>(())
//! ```

use crate::packed::{
    BatchEncoder, Changes, DecisionView, Decisions, Fields, decode_value, encode_targets, encode_value,
};
use crate::{Instance, Plan, Router, Value};

/// A message to route, or one that a target got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TestMessage {
    routing_key: String,
    persistent: bool,
    priority: u8,
    message_id: Option<String>,
    timestamp: Option<u64>,
    expiration: Option<u64>,
    delay: Option<u64>,
    content_type: Option<String>,
    content_encoding: Option<String>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    /// Names and packed values.
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

macro_rules! with {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $convert:expr;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, $name: $type) -> TestMessage {
            self.$name = $convert($name);
            self
        })*
    };
}

fn some_text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

impl TestMessage {
    /// A persistent message with that routing key and an empty body.
    pub fn new(routing_key: &str) -> TestMessage {
        TestMessage {
            routing_key: routing_key.to_owned(),
            persistent: true,
            ..TestMessage::default()
        }
    }

    with! {
        /// With this persistence.
        persistent: bool => std::convert::identity;
        /// With this priority.
        priority: u8 => std::convert::identity;
        /// With this message id.
        message_id: &str => some_text;
        /// With this timestamp, in milliseconds since the Unix epoch.
        timestamp: u64 => Some;
        /// With this time to live, in milliseconds.
        expiration: u64 => Some;
        /// With this content type.
        content_type: &str => some_text;
        /// With this content encoding.
        content_encoding: &str => some_text;
        /// With this correlation id.
        correlation_id: &str => some_text;
        /// With this reply-to address.
        reply_to: &str => some_text;
    }

    /// With one more header.
    #[must_use]
    pub fn header<'a>(mut self, name: &str, value: impl Into<Value<'a>>) -> TestMessage {
        let mut packed = Vec::new();
        encode_value(&mut packed, value.into());
        self.headers.push((name.to_owned(), packed));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> TestMessage {
        self.body = body.as_ref().to_vec();
        self
    }

    /// The delay that a router gave it, in milliseconds.
    pub fn delay(&self) -> Option<u64> {
        self.delay
    }

    /// The message after a delivery's changes, as the broker makes them.
    fn apply(mut self, changes: Changes<'_>) -> TestMessage {
        if let Some(key) = changes.routing_key {
            key.clone_into(&mut self.routing_key);
        }
        self.priority = changes.priority.unwrap_or(self.priority);
        self.expiration = changes.expiration.or(self.expiration);
        self.delay = changes.delay.or(self.delay);
        self.headers
            .retain(|(name, _)| !changes.remove_headers.contains(&name.as_str()));
        for (name, value) in changes.set_headers {
            self.headers.retain(|(known, _)| known != name);
            self = self.header(name, value);
        }
        if let Some(body) = changes.body {
            self.body = body.to_vec();
        }
        self
    }
}

impl Fields for TestMessage {
    fn routing_key(&self) -> &str {
        &self.routing_key
    }
    fn persistent(&self) -> bool {
        self.persistent
    }
    fn priority(&self) -> u8 {
        self.priority
    }
    fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }
    fn timestamp(&self) -> Option<u64> {
        self.timestamp
    }
    fn expiration(&self) -> Option<u64> {
        self.expiration
    }
    fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }
    fn content_encoding(&self) -> Option<&str> {
        self.content_encoding.as_deref()
    }
    fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }
    fn reply_to(&self) -> Option<&str> {
        self.reply_to.as_deref()
    }
    fn header(&self, name: &str) -> Option<Value<'_>> {
        Fields::headers(self)
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
    fn headers(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let values = self.headers.iter();
        values.filter_map(|(name, packed)| Some((name.as_str(), decode_value(packed).ok()?)))
    }
    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Routed {
    /// No target.
    Unroutable,
    /// Names of targets and the message each got, in the order of the decision.
    Delivered(Vec<(String, TestMessage)>),
    /// Refused with this reason.
    Rejected(String),
}

impl Routed {
    /// The names of the targets; none when it was unroutable or rejected.
    pub fn targets(&self) -> Vec<&str> {
        match self {
            Routed::Delivered(deliveries) => deliveries.iter().map(|(name, _)| name.as_str()).collect(),
            Routed::Unroutable | Routed::Rejected(_) => Vec::new(),
        }
    }

    /// What the target of that name got.
    pub fn received(&self, target: &str) -> Option<&TestMessage> {
        match self {
            Routed::Delivered(deliveries) => {
                let delivery = deliveries.iter().find(|(name, _)| name == target);
                delivery.map(|(_, message)| message)
            }
            Routed::Unroutable | Routed::Rejected(_) => None,
        }
    }
}

/// A configured router on a made-up exchange.
pub struct Trial<R> {
    instance: Instance<R>,
    plan: Plan,
    targets: Vec<String>,
    encoder: BatchEncoder,
}

/// Shows the plan; the router need not be `Debug`.
impl<R> std::fmt::Debug for Trial<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl<R: Router> Trial<R> {
    /// Configures the router for an exchange with these targets.
    ///
    /// # Errors
    /// What the router's `configure` says, or that its plan is over a limit.
    pub fn new(config: impl AsRef<[u8]>, targets: &[&str]) -> Result<Trial<R>, String> {
        let packed = encode_targets(targets.iter().copied());
        let (instance, plan) = Instance::configure(config.as_ref(), &packed)?;
        Ok(Trial {
            instance,
            plan: Plan::decode(&plan).map_err(|error| error.to_string())?,
            targets: targets.iter().map(|&name| name.to_owned()).collect(),
            encoder: BatchEncoder::default(),
        })
    }

    /// What the router declared.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Routes one message.
    ///
    /// # Panics
    /// When the router panics or answers what the broker would refuse.
    pub fn route(&mut self, message: &TestMessage) -> Routed {
        let messages = std::slice::from_ref(message);
        let decided = self
            .encoder
            .encode(&self.plan, messages, usize::MAX)
            .map(|(batch, _)| self.instance.route(batch));
        let routed = decided.and_then(|bytes| routed(&bytes, &self.targets, message));
        routed.unwrap_or_else(|error| panic!("the broker would refuse this answer: {error}"))
    }
}

fn routed(
    bytes: &[u8],
    targets: &[String],
    message: &TestMessage,
) -> Result<Routed, crate::packed::PackedError> {
    let name = |number: u32| targets[number as usize].clone(); // in range: `Decisions` checked it
    let mut decisions = Decisions::decode(bytes, 1, targets.len() as u32)?;
    let decision = decisions.next().transpose()?.unwrap_or(DecisionView::Unroutable);
    Ok(match decision {
        DecisionView::Unroutable => Routed::Unroutable,
        DecisionView::One(target) => Routed::Delivered(vec![(name(target), message.clone())]),
        DecisionView::Several(numbers) => Routed::Delivered(
            numbers
                .iter()
                .map(|number| (name(number), message.clone()))
                .collect(),
        ),
        DecisionView::Changed(deliveries) => {
            let changed = deliveries.into_iter();
            let changed = changed.map(|each| (name(each.target), message.clone().apply(each.changes)));
            Routed::Delivered(changed.collect())
        }
        DecisionView::Reject(reason) => Routed::Rejected(reason.to_owned()),
    })
}
