//! A message as a module's interface reads it.

use pointsman_protocol::Value;
use pointsman_router::packed::Fields;

use super::Question;
use crate::routes::scan_content;
use crate::scan::Scanned;

/// A message, borrowed.
pub(crate) struct View<'a> {
    pub(crate) meta: Scanned<'a>,
    pub(crate) body: &'a [u8],
}

impl<'a> View<'a> {
    /// `None` for metadata that does not decode, which the walk has refused before.
    pub(crate) fn new(question: &'a Question) -> Option<View<'a>> {
        let meta = scan_content(&question.content, question.meta_len).ok()?;
        let body = question.content.get(question.meta_len as usize..)?;
        Some(View { meta, body })
    }
}

impl Fields for View<'_> {
    fn routing_key(&self) -> &str {
        self.meta.routing_key
    }
    fn persistent(&self) -> bool {
        self.meta.persistent
    }
    fn priority(&self) -> u8 {
        self.meta.priority
    }
    fn message_id(&self) -> Option<&str> {
        self.meta.message_id
    }
    fn timestamp(&self) -> Option<u64> {
        self.meta.timestamp
    }
    fn expiration(&self) -> Option<u64> {
        self.meta.expiration
    }
    fn content_type(&self) -> Option<&str> {
        self.meta.content_type
    }
    fn content_encoding(&self) -> Option<&str> {
        self.meta.content_encoding
    }
    fn correlation_id(&self) -> Option<&str> {
        self.meta.correlation_id
    }
    fn reply_to(&self) -> Option<&str> {
        self.meta.reply_to
    }
    fn header(&self, name: &str) -> Option<pointsman_router::Value<'_>> {
        self.meta
            .headers()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| to_guest(value))
    }
    fn headers(&self) -> impl Iterator<Item = (&str, pointsman_router::Value<'_>)> {
        self.meta.headers().map(|(name, value)| (name, to_guest(value)))
    }
    fn body(&self) -> &[u8] {
        self.body
    }
}

fn to_guest(value: Value<'_>) -> pointsman_router::Value<'_> {
    match value {
        Value::Bool(truth) => pointsman_router::Value::Bool(truth),
        Value::Int(number) => pointsman_router::Value::Int(number),
        Value::Float(number) => pointsman_router::Value::Float(number),
        Value::Str(text) => pointsman_router::Value::Str(text),
        Value::Bytes(bytes) => pointsman_router::Value::Bytes(bytes),
    }
}
