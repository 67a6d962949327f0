//! What a module needs to see.

use super::bytes::{PackedError, Reader, encode_text, within};
use super::{NAME_MAX, PLAN_HEADERS_MAX, PLAN_UNBOUND_MAX, VERSION};

/// A part of a message that a plan can declare, beside single headers and the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Field {
    /// The routing key.
    RoutingKey = 0,
    /// Whether the message is to survive a restart.
    Persistent = 1,
    /// The priority.
    Priority = 2,
    /// The application's id.
    MessageId = 3,
    /// The application's timestamp.
    Timestamp = 4,
    /// The time to live.
    Expiration = 5,
    /// The MIME type of the body.
    ContentType = 6,
    /// The encoding of the body.
    ContentEncoding = 7,
    /// What the message answers.
    CorrelationId = 8,
    /// Where an answer should go.
    ReplyTo = 9,
    /// Every header with its name.
    AllHeaders = 10,
}

impl Field {
    /// All fields, in the order of their bits and slots.
    pub const ALL: [Field; 11] = [
        Field::RoutingKey,
        Field::Persistent,
        Field::Priority,
        Field::MessageId,
        Field::Timestamp,
        Field::Expiration,
        Field::ContentType,
        Field::ContentEncoding,
        Field::CorrelationId,
        Field::ReplyTo,
        Field::AllHeaders,
    ];

    const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// What a router needs to see of a message, and what the broker may conclude.
///
/// The broker fills only what is declared here: what is left out costs nothing and stays private.
///
/// ```
/// # use pointsman_router::Plan;
/// let plan = Plan::new().routing_key().header("kind").body_up_to(64 * 1024).cacheable();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan {
    fields: u32,
    headers: Vec<String>,
    body_up_to: u32,
    cacheable: bool,
    unbound: Vec<String>,
}

macro_rules! declare {
    ($($(#[$doc:meta])* $name:ident => $field:ident;)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(self) -> Plan { self.field(Field::$field) })*
    };
}

impl Plan {
    /// A plan that declares nothing.
    pub fn new() -> Plan {
        Plan::default()
    }

    declare! {
        /// Declares the routing key.
        routing_key => RoutingKey;
        /// Declares whether the message is persistent.
        persistent => Persistent;
        /// Declares the priority.
        priority => Priority;
        /// Declares the message id.
        message_id => MessageId;
        /// Declares the timestamp.
        timestamp => Timestamp;
        /// Declares the time to live.
        expiration => Expiration;
        /// Declares the content type.
        content_type => ContentType;
        /// Declares the content encoding.
        content_encoding => ContentEncoding;
        /// Declares the correlation id.
        correlation_id => CorrelationId;
        /// Declares the reply-to address.
        reply_to => ReplyTo;
        /// Declares every header. Naming the few that are needed with [`Plan::header`] is faster.
        all_headers => AllHeaders;
    }

    /// Declares a field.
    #[must_use]
    pub fn field(mut self, field: Field) -> Plan {
        self.fields |= field.bit();
        self
    }

    /// Declares one header by name; naming it again changes nothing.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>) -> Plan {
        let name = name.into();
        if !self.headers.contains(&name) {
            self.headers.push(name);
        }
        self
    }

    /// Declares the first `bytes` bytes of the body. A longer body is cut; [`crate::Message::whole_body`] tells.
    #[must_use]
    pub fn body_up_to(mut self, bytes: u32) -> Plan {
        self.body_up_to = bytes;
        self
    }

    /// Promises that a decision depends on nothing but what is declared here, so that the broker may remember it
    /// for messages that are equal in that. Not true for a router that counts, draws lots or looks at more.
    #[must_use]
    pub fn cacheable(mut self) -> Plan {
        self.cacheable = true;
        self
    }

    /// The same plan with the names it warns of; those over the limits are left out.
    pub(crate) fn with_unbound(mut self, mut names: Vec<String>) -> Plan {
        names.retain(|name| name.len() <= NAME_MAX);
        names.truncate(PLAN_UNBOUND_MAX);
        self.unbound = names;
        self
    }

    /// Whether a field is declared.
    pub fn has(&self, field: Field) -> bool {
        self.fields & field.bit() != 0
    }

    /// The declared fields, in the order of their slots.
    pub fn declared_fields(&self) -> impl Iterator<Item = Field> + use<> {
        let mut left = self.fields;
        std::iter::from_fn(move || {
            let field = Field::ALL.get(left.trailing_zeros() as usize).copied()?;
            left &= left - 1;
            Some(field)
        })
    }

    /// The declared headers, in the order of their slots.
    pub fn headers(&self) -> &[String] {
        &self.headers
    }

    /// How much of a body is declared, in bytes; 0 for nothing.
    pub fn body_limit(&self) -> u32 {
        self.body_up_to
    }

    /// Whether decisions may be remembered.
    pub fn is_cacheable(&self) -> bool {
        self.cacheable
    }

    /// The names of targets that no binding has.
    pub fn unbound(&self) -> &[String] {
        &self.unbound
    }

    /// The slot of a field, if it is declared.
    pub(crate) fn slot_of(&self, field: Field) -> Option<usize> {
        let lower = self.fields & (field.bit() - 1);
        self.has(field).then_some(lower.count_ones() as usize)
    }

    /// The slot of a header, if it is declared.
    pub(crate) fn slot_of_header(&self, name: &str) -> Option<usize> {
        let place = self.headers.iter().position(|known| known == name)?;
        Some(self.fields.count_ones() as usize + place)
    }

    /// The slot of the body, if any of it is declared.
    pub(crate) fn slot_of_body(&self) -> Option<usize> {
        let before = self.fields.count_ones() as usize + self.headers.len();
        (self.body_up_to > 0).then_some(before)
    }

    /// How many slots a message has.
    pub(crate) fn slots(&self) -> usize {
        self.fields.count_ones() as usize + self.headers.len() + usize::from(self.body_up_to > 0)
    }

    /// Guest: packs the plan.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.cacheable)];
        out.extend((self.headers.len() as u16).to_le_bytes());
        out.extend(self.fields.to_le_bytes());
        out.extend(self.body_up_to.to_le_bytes());
        for name in &self.headers {
            encode_text(&mut out, name);
        }
        out.extend((self.unbound.len() as u16).to_le_bytes());
        for name in &self.unbound {
            encode_text(&mut out, name);
        }
        out
    }

    /// Host: reads a module's plan.
    ///
    /// # Errors
    /// When the bytes are not a plan, ask for what this version does not know, or are over a limit.
    pub fn decode(bytes: &[u8]) -> Result<Plan, PackedError> {
        let mut reader = Reader::versioned(bytes, "plan")?;
        let flags = reader.u8("plan")?;
        if flags > 1 {
            return Err(PackedError::Unknown("plan flags", flags.into()));
        }
        let headers = reader.u16("plan")?;
        let fields = reader.u32("plan")?;
        if fields >> Field::ALL.len() != 0 {
            return Err(PackedError::Unknown("field bits", fields.into()));
        }
        let body_up_to = reader.u32("plan")?;
        let headers = names(
            &mut reader,
            "number of declared headers",
            headers,
            PLAN_HEADERS_MAX,
        )?;
        let unbound = reader.u16("plan")?;
        let unbound = names(&mut reader, "number of unbound names", unbound, PLAN_UNBOUND_MAX)?;
        reader.end()?;
        Ok(Plan {
            fields,
            headers,
            body_up_to,
            cacheable: flags & 1 != 0,
            unbound,
        })
    }
}

fn names(
    reader: &mut Reader<'_>,
    part: &'static str,
    count: u16,
    limit: usize,
) -> Result<Vec<String>, PackedError> {
    let count = within(part, count.into(), limit)?;
    (0..count)
        .map(|_| Ok(reader.name("name in the plan")?.to_owned()))
        .collect()
}
