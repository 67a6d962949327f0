//! What a router answers.

use std::borrow::Cow;

use crate::Value;
use crate::packed::{Change, encode_header, encode_text};

/// One of the exchange's targets: the bindings with one key. Got from [`crate::Targets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(pub(crate) u32);

impl Target {
    /// The target of a name that no binding has: what is sent there goes nowhere.
    pub(crate) const NOWHERE: Target = Target(u32::MAX);

    /// Whether a binding has its name.
    pub fn is_bound(self) -> bool {
        self != Target::NOWHERE
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// To no target; the exchange's alternate takes it, if there is one.
    Unroutable,
    /// To one target.
    One(Target),
    /// To several targets.
    Several(Vec<Target>),
    /// To some targets, changed for each.
    Changed(Vec<Delivery>),
    /// Refused; the publisher is told this reason, up to 1,024 bytes of it.
    Reject(Cow<'static, str>),
}

impl Decision {
    /// To one target.
    pub fn to(target: Target) -> Decision {
        Decision::One(target)
    }

    /// To all these targets, each once.
    pub fn to_all(targets: impl IntoIterator<Item = Target>) -> Decision {
        let mut targets = targets.into_iter().filter(|target| target.is_bound());
        let (Some(first), second) = (targets.next(), targets.next()) else {
            return Decision::Unroutable;
        };
        let Some(second) = second else {
            return Decision::One(first);
        };
        let mut all = vec![first, second];
        all.extend(targets);
        all.sort_unstable();
        all.dedup();
        Decision::Several(all)
    }

    /// To these targets, changed for each.
    pub fn changed(deliveries: impl IntoIterator<Item = Delivery>) -> Decision {
        Decision::Changed(deliveries.into_iter().collect())
    }

    /// Refuses the message; the publisher is told why.
    pub fn reject(reason: impl Into<Cow<'static, str>>) -> Decision {
        Decision::Reject(reason.into())
    }
}

impl From<Delivery> for Decision {
    fn from(delivery: Delivery) -> Decision {
        Decision::Changed(vec![delivery])
    }
}

/// A target and what it gets instead of the message as it was published.
///
/// ```
/// # use pointsman_router::{Decision, Delivery, Targets};
/// # let targets = Targets::from_iter(["audit"]);
/// let copy = Delivery::to(targets.named("audit")).header("copied", true).expires_after(60_000);
/// let decision = Decision::from(copy);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    pub(crate) target: Target,
    routing_key: Option<String>,
    priority: Option<u8>,
    expiration: Option<u64>,
    /// Number of headers to remove, and their packed names.
    removed: (u16, Vec<u8>),
    /// Number of headers to set, packed.
    set: (u16, Vec<u8>),
    body: Option<Vec<u8>>,
    delay: Option<u64>,
}

impl Delivery {
    /// The message as it is to this target.
    pub fn to(target: Target) -> Delivery {
        Delivery {
            target,
            routing_key: None,
            priority: None,
            expiration: None,
            removed: (0, Vec::new()),
            set: (0, Vec::new()),
            body: None,
            delay: None,
        }
    }

    /// With this routing key, at most 255 bytes.
    #[must_use]
    pub fn routing_key(mut self, key: impl Into<String>) -> Delivery {
        self.routing_key = Some(key.into());
        self
    }

    /// With this priority.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Delivery {
        self.priority = Some(priority);
        self
    }

    /// Not worth delivering after so many milliseconds, at least one, counted from the publish or the end of the delay.
    #[must_use]
    pub fn expires_after(mut self, milliseconds: u64) -> Delivery {
        self.expiration = Some(milliseconds);
        self
    }

    /// In its queues only after so many milliseconds; 0 is at once.
    #[must_use]
    pub fn delay(mut self, milliseconds: u64) -> Delivery {
        self.delay = Some(milliseconds);
        self
    }

    /// With this header: it replaces those of the same name or is added.
    #[must_use]
    pub fn header<'a>(mut self, name: &str, value: impl Into<Value<'a>>) -> Delivery {
        self.set.0 += 1;
        encode_header(&mut self.set.1, name, value.into());
        self
    }

    /// Without the headers of that name. Removing comes before setting.
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Delivery {
        self.removed.0 += 1;
        encode_text(&mut self.removed.1, name);
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Delivery {
        self.body = Some(body.into());
        self
    }

    /// Packs the change bits and the changes.
    pub(crate) fn encode_changes(&self, out: &mut Vec<u8>) {
        let bits = [
            (Change::RoutingKey, self.routing_key.is_some()),
            (Change::Priority, self.priority.is_some()),
            (Change::Expiration, self.expiration.is_some()),
            (Change::RemoveHeaders, self.removed.0 > 0),
            (Change::SetHeaders, self.set.0 > 0),
            (Change::Body, self.body.is_some()),
            (Change::Delay, self.delay.is_some()),
        ];
        let bits = bits
            .iter()
            .filter(|(_, is_set)| *is_set)
            .fold(0, |bits, (change, _)| bits | change.bit());
        out.extend(u32::to_le_bytes(bits));
        if let Some(key) = &self.routing_key {
            encode_text(out, key);
        }
        out.extend(self.priority);
        out.extend(self.expiration.iter().flat_map(|ms| ms.to_le_bytes()));
        for (count, packed) in [&self.removed, &self.set] {
            if *count > 0 {
                out.extend(count.to_le_bytes());
                out.extend_from_slice(packed);
            }
        }
        if let Some(body) = &self.body {
            out.extend((body.len() as u32).to_le_bytes());
            out.extend_from_slice(body);
        }
        out.extend(self.delay.iter().flat_map(|ms| ms.to_le_bytes()));
    }
}
