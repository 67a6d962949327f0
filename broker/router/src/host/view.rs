//! A message as a module's interface reads it.

use bytes::Bytes;
use pointsman_protocol::{ErrorBody, Value};
use pointsman_router::packed::Fields;

use crate::scan::{Scanned, scan_content};

/// A message, borrowed; its metadata was scanned, so that nobody behind does it again.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) content: &'a Bytes,
    pub(crate) meta_len: u32,
    pub(crate) meta: Scanned<'a>,
}

impl<'a> View<'a> {
    /// # Errors
    /// What the publisher of metadata that does not decode is told.
    pub(crate) fn new(content: &'a Bytes, meta_len: u32) -> Result<View<'a>, ErrorBody> {
        Ok(View {
            content,
            meta_len,
            meta: scan_content(content, meta_len)?,
        })
    }

    /// The whole body.
    pub(crate) fn body(&self) -> &'a [u8] {
        self.content.get(self.meta_len as usize..).unwrap_or_default()
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
        View::body(self)
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
