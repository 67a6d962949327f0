//! Parts of a message that a router's *configuration* names, as the ready routers have them.
//!
//! | text | part |
//! |---|---|
//! | `routing_key`, `priority`, `message_id`, `timestamp`, `content_type`, `correlation_id`, `reply_to` | that property |
//! | `header.NAME` | a header; the name may contain dots |
//! | `body.a.b` | a field of a JSON body: key `b` in the object at key `a`; numbers count into lists |
//!
//! The body is read once, front to back, without building a tree: what no part names is skipped, and reading stops
//! when every part is found. So a field behind the point where a body is cut or stops being JSON is absent.

use std::borrow::Cow;
use std::cell::OnceCell;

use crate::{Field, Message, Plan, Value};

mod json;

/// The parts that a configuration names. Each is there once, however often it is named.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    parts: Vec<Part>,
    fields: json::Paths,
}

/// A part's number within its [`Parts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(usize);

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Property(Field),
    Header(String),
    /// A field of the body, by its number among the paths.
    Body(usize),
}

const PROPERTIES: [(&str, Field); 7] = [
    ("routing_key", Field::RoutingKey),
    ("priority", Field::Priority),
    ("message_id", Field::MessageId),
    ("timestamp", Field::Timestamp),
    ("content_type", Field::ContentType),
    ("correlation_id", Field::CorrelationId),
    ("reply_to", Field::ReplyTo),
];

impl Parts {
    /// Adds a part by its text.
    ///
    /// # Errors
    /// A sentence for the operator when the text names no part.
    pub fn add(&mut self, text: &str) -> Result<PartId, String> {
        let part = self.parse(text)?;
        let known = self.parts.iter().position(|known| *known == part);
        Ok(PartId(known.unwrap_or_else(|| {
            self.parts.push(part);
            self.parts.len() - 1
        })))
    }

    fn parse(&mut self, text: &str) -> Result<Part, String> {
        if let Some((_, field)) = PROPERTIES.iter().find(|(name, _)| *name == text) {
            return Ok(Part::Property(*field));
        }
        match text.split_once('.') {
            Some(("header", name)) if !name.is_empty() => Ok(Part::Header(name.to_owned())),
            Some(("body", path)) if path.split('.').all(|key| !key.is_empty()) => {
                Ok(Part::Body(self.fields.add(path)))
            }
            _ => Err(format!(
                "`{text}` names no part of a message; write `header.NAME`, `body.PATH.TO.FIELD`, or one of {}",
                PROPERTIES.map(|(name, _)| format!("`{name}`")).join(", ")
            )),
        }
    }

    /// Declares the parts; of a body the first `body_up_to` bytes if any of its fields is among them. The plan is
    /// cacheable if none is.
    pub fn plan(&self, body_up_to: u32) -> Plan {
        let plan = self.parts.iter().fold(Plan::new(), |plan, part| match part {
            Part::Property(field) => plan.field(*field),
            Part::Header(name) => plan.header(name),
            Part::Body(_) => plan.body_up_to(body_up_to),
        });
        match plan.body_limit() {
            0 => plan.cacheable(),
            _ => plan,
        }
    }

    /// Starts looking at a message. The body is read when the first of its fields is asked for.
    pub fn of<'a>(&'a self, message: &'a Message<'a>) -> Selected<'a> {
        Selected {
            parts: self,
            message,
            fields: OnceCell::new(),
        }
    }
}

/// The parts of one message.
#[derive(Debug)]
pub struct Selected<'a> {
    parts: &'a Parts,
    message: &'a Message<'a>,
    fields: OnceCell<Vec<Option<Scalar<'a>>>>,
}

/// What a part of a message is.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// JSON's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Cow<'a, str>),
    /// A list, an object or bytes: it is there, but nothing to compare.
    Other,
}

impl<'a> Selected<'a> {
    /// The part, if the message has it.
    pub fn get(&self, part: PartId) -> Option<Scalar<'a>> {
        match self.parts.parts.get(part.0)? {
            Part::Property(field) => self.property(*field),
            Part::Header(name) => self.message.header(name).map(Scalar::from),
            Part::Body(field) => self.fields().get(*field)?.clone(),
        }
    }

    fn fields(&self) -> &[Option<Scalar<'a>>] {
        self.fields
            .get_or_init(|| self.parts.fields.read(self.message.body()))
    }

    fn property(&self, field: Field) -> Option<Scalar<'a>> {
        let message = self.message;
        let text = match field {
            Field::RoutingKey => Some(message.routing_key()),
            Field::MessageId => message.message_id(),
            Field::ContentType => message.content_type(),
            Field::CorrelationId => message.correlation_id(),
            Field::ReplyTo => message.reply_to(),
            Field::Priority => return Some(Scalar::Int(message.priority().into())),
            Field::Timestamp => return message.timestamp().map(Scalar::from),
            _ => None,
        };
        text.map(|text| Scalar::Text(text.into()))
    }
}

impl Scalar<'_> {
    /// The part as text, as a configuration would write it: numbers in decimal, truth as `true` and `false`.
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Scalar::Text(text) => Some(Cow::Borrowed(text)),
            Scalar::Bool(truth) => Some(truth.to_string().into()),
            Scalar::Int(number) => Some(number.to_string().into()),
            Scalar::Float(number) => Some(number.to_string().into()),
            Scalar::Null | Scalar::Other => None,
        }
    }
}

impl From<u64> for Scalar<'_> {
    fn from(number: u64) -> Self {
        i64::try_from(number).map_or(Scalar::Float(number as f64), Scalar::Int)
    }
}

impl<'a> From<Value<'a>> for Scalar<'a> {
    fn from(value: Value<'a>) -> Scalar<'a> {
        match value {
            Value::Bool(truth) => Scalar::Bool(truth),
            Value::Int(number) => Scalar::Int(number),
            Value::Float(number) => Scalar::Float(number),
            Value::Str(text) => Scalar::Text(text.into()),
            Value::Bytes(_) => Scalar::Other,
        }
    }
}
