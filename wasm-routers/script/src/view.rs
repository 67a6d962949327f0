//! What a script sees of a message.

use std::collections::HashSet;

use pointsman_router::{Field, Message, Plan, Value};
use rhai::{Dynamic, Engine, Map};

/// How much of a body a script sees, in bytes.
const BODY_UP_TO: u32 = 64 * 1024;

/// The properties by the names that scripts use.
pub(crate) const PROPERTIES: [(&str, Field); 10] = [
    ("routing_key", Field::RoutingKey),
    ("persistent", Field::Persistent),
    ("priority", Field::Priority),
    ("message_id", Field::MessageId),
    ("timestamp", Field::Timestamp),
    ("expiration", Field::Expiration),
    ("content_type", Field::ContentType),
    ("content_encoding", Field::ContentEncoding),
    ("correlation_id", Field::CorrelationId),
    ("reply_to", Field::ReplyTo),
];

/// The parts of a message that a script's text mentions. A part is read as `msg.NAME`, so a script that does not have
/// the word cannot read it; one that has it in a comment declares more than it needs, which does no harm.
pub(crate) struct View {
    properties: Vec<(&'static str, Field)>,
    headers: bool,
    body: bool,
}

impl View {
    pub(crate) fn of_script(text: &str) -> View {
        let words: HashSet<&str> = text
            .split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
            .collect();
        View {
            properties: PROPERTIES
                .into_iter()
                .filter(|(name, _)| words.contains(name))
                .collect(),
            headers: words.contains("headers"),
            body: ["body", "body_len", "json"]
                .into_iter()
                .any(|name| words.contains(name)),
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        let plan = self
            .properties
            .iter()
            .fold(Plan::new(), |plan, (_, field)| plan.field(*field));
        let plan = if self.headers { plan.all_headers() } else { plan };
        if self.body {
            plan.body_up_to(BODY_UP_TO)
        } else {
            plan.cacheable()
        }
    }

    /// A copy of what the script can read: Rhai's values do not borrow.
    pub(crate) fn read(&self, message: &Message<'_>) -> MessageView {
        let properties = self
            .properties
            .iter()
            .map(|(name, field)| (*name, property(message, *field)));
        let headers = |message: &Message<'_>| {
            message
                .headers()
                .map(|(name, value)| (name.into(), dynamic(value)))
                .collect()
        };
        MessageView {
            properties: properties.collect(),
            headers: if self.headers {
                headers(message)
            } else {
                Map::new()
            },
            body: if self.body {
                message.body().to_vec()
            } else {
                Vec::new()
            },
            body_len: if self.body { message.body_len() as i64 } else { 0 },
        }
    }
}

/// The message as Rhai holds it.
#[derive(Clone)]
pub(crate) struct MessageView {
    properties: Vec<(&'static str, Dynamic)>,
    pub(crate) headers: Map,
    body: Vec<u8>,
    pub(crate) body_len: i64,
}

impl MessageView {
    pub(crate) fn property(&self, name: &str) -> Dynamic {
        let property = self.properties.iter().find(|(known, _)| *known == name);
        property.map_or(Dynamic::UNIT, |(_, value)| value.clone())
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as what its JSON says; nothing when it is not a JSON object.
    pub(crate) fn json(&self) -> Result<Dynamic, String> {
        if self.body.len() as i64 != self.body_len {
            return Err(format!(
                "a body of {} bytes is over the {BODY_UP_TO} that a script sees, so it has no `json`",
                self.body_len
            ));
        }
        let text = String::from_utf8_lossy(&self.body);
        let object = Engine::new_raw().parse_json(text.as_ref(), true);
        Ok(object.map_or(Dynamic::UNIT, Dynamic::from))
    }
}

fn property(message: &Message<'_>, field: Field) -> Dynamic {
    let text = |text: Option<&str>| text.map_or(Dynamic::UNIT, |text| text.into());
    let number = |number: Option<u64>| number.map_or(Dynamic::UNIT, |number| Dynamic::from(number as i64));
    match field {
        Field::RoutingKey => message.routing_key().into(),
        Field::Persistent => message.persistent().into(),
        Field::Priority => i64::from(message.priority()).into(),
        Field::MessageId => text(message.message_id()),
        Field::Timestamp => number(message.timestamp()),
        Field::Expiration => number(message.expiration()),
        Field::ContentType => text(message.content_type()),
        Field::ContentEncoding => text(message.content_encoding()),
        Field::CorrelationId => text(message.correlation_id()),
        Field::ReplyTo => text(message.reply_to()),
        Field::AllHeaders => Dynamic::UNIT,
    }
}

fn dynamic(value: Value<'_>) -> Dynamic {
    match value {
        Value::Bool(truth) => truth.into(),
        Value::Int(number) => number.into(),
        Value::Float(number) => number.into(),
        Value::Str(text) => text.into(),
        Value::Bytes(bytes) => Dynamic::from_blob(bytes.to_vec()),
    }
}
