//! What a module sees of a message, as bytes: two messages have the same key exactly when a module with this plan
//! cannot tell them apart.

use pointsman_protocol::Value;
use pointsman_router::packed::{Field, Plan};

use crate::host::view::View;
use crate::limits::CACHE_KEY_MAX;

/// A key, on the stack.
pub(super) struct Key {
    bytes: [u8; CACHE_KEY_MAX],
    length: usize,
}

impl Key {
    /// The key of a message, or `None` when it is over [`CACHE_KEY_MAX`].
    pub(super) fn of(plan: &Plan, message: &View<'_>) -> Option<Key> {
        let mut key = Key {
            bytes: [0; CACHE_KEY_MAX],
            length: 0,
        };
        let meta = &message.meta;
        for field in plan.declared_fields() {
            match field {
                Field::RoutingKey => key.text(meta.routing_key.as_bytes())?,
                Field::Persistent => key.put(&[meta.persistent.into()])?,
                Field::Priority => key.put(&[meta.priority])?,
                Field::MessageId => key.option(meta.message_id)?,
                Field::Timestamp => key.number(meta.timestamp)?,
                Field::Expiration => key.number(meta.expiration)?,
                Field::ContentType => key.option(meta.content_type)?,
                Field::ContentEncoding => key.option(meta.content_encoding)?,
                Field::CorrelationId => key.option(meta.correlation_id)?,
                Field::ReplyTo => key.option(meta.reply_to)?,
                Field::AllHeaders => {
                    key.put(&(meta.headers().count() as u32).to_le_bytes())?;
                    for (name, value) in meta.headers() {
                        key.text(name.as_bytes())?;
                        key.value(&value)?;
                    }
                }
            }
        }
        for name in plan.headers() {
            match meta.headers().find(|(known, _)| known == name) {
                Some((_, value)) => key.value(&value)?,
                None => key.put(&[0])?,
            }
        }
        if plan.body_limit() > 0 {
            let body = message.body();
            let seen = body.len().min(plan.body_limit() as usize);
            key.put(&(body.len() as u32).to_le_bytes())?;
            key.put(&body[..seen])?;
        }
        Some(key)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length + bytes.len();
        self.bytes.get_mut(self.length..end)?.copy_from_slice(bytes);
        self.length = end;
        Some(())
    }

    /// Behind its length, so that no other text begins the same.
    fn text(&mut self, text: &[u8]) -> Option<()> {
        self.put(&(text.len() as u32).to_le_bytes())?;
        self.put(text)
    }

    fn option(&mut self, text: Option<&str>) -> Option<()> {
        self.put(&[text.is_some().into()])?;
        text.map_or(Some(()), |text| self.text(text.as_bytes()))
    }

    fn number(&mut self, number: Option<u64>) -> Option<()> {
        self.put(&[number.is_some().into()])?;
        number.map_or(Some(()), |number| self.put(&number.to_le_bytes()))
    }

    /// Behind its type, none of which is 0.
    fn value(&mut self, value: &Value<'_>) -> Option<()> {
        match *value {
            Value::Bool(truth) => self.put(&[1, truth.into()]),
            Value::Int(number) => {
                self.put(&[2])?;
                self.put(&number.to_le_bytes())
            }
            Value::Float(number) => {
                self.put(&[3])?;
                self.put(&number.to_bits().to_le_bytes())
            }
            Value::Str(text) => {
                self.put(&[4])?;
                self.text(text.as_bytes())
            }
            Value::Bytes(bytes) => {
                self.put(&[5])?;
                self.text(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pointsman_protocol::MessageMeta;

    use super::*;

    fn key(plan: &Plan, meta: &MessageMeta<'_>, body: &[u8]) -> Option<Vec<u8>> {
        let mut content = postcard::to_stdvec(meta).unwrap();
        let meta_len = content.len() as u32;
        content.extend_from_slice(body);
        let content = content.into();
        let view = View::new(&content, meta_len).unwrap();
        Key::of(plan, &view).map(|key| key.bytes().to_vec())
    }

    fn with_headers<'a>(headers: Vec<(&'a str, Value<'a>)>) -> MessageMeta<'a> {
        MessageMeta {
            routing_key: "a",
            headers,
            ..Default::default()
        }
    }

    #[test]
    fn what_is_not_declared_does_not_count() {
        let plan = Plan::new().routing_key().header("kind");
        let one = with_headers(vec![("kind", Value::Int(1)), ("other", Value::Int(1))]);
        let other = MessageMeta {
            priority: 3,
            headers: vec![("other", Value::Int(2)), ("kind", Value::Int(1))],
            ..one.clone()
        };
        assert_eq!(key(&plan, &one, b"x"), key(&plan, &other, b"y"));
    }

    #[test]
    fn what_is_declared_counts_with_its_type_and_whether_it_is_there() {
        let plan = Plan::new().header("kind").field(Field::MessageId).body_up_to(2);
        let messages = [
            (with_headers(vec![]), &b"ab"[..]),
            (with_headers(vec![]), b"ac"),
            (with_headers(vec![]), b"abc"),
            (with_headers(vec![("kind", Value::Str(""))]), b"ab"),
            (with_headers(vec![("kind", Value::Bytes(&[]))]), b"ab"),
            (with_headers(vec![("kind", Value::Int(1))]), b"ab"),
            (with_headers(vec![("kind", Value::Bool(true))]), b"ab"),
            (
                MessageMeta {
                    message_id: Some(""),
                    ..Default::default()
                },
                b"ab",
            ),
        ];
        let keys: std::collections::BTreeSet<_> = messages
            .iter()
            .map(|(meta, body)| key(&plan, meta, body).unwrap())
            .collect();
        assert_eq!(keys.len(), messages.len());
    }

    #[test]
    fn a_long_key_is_none() {
        let plan = Plan::new().body_up_to(u32::MAX);
        assert!(key(&plan, &MessageMeta::default(), &[0; CACHE_KEY_MAX - 4]).is_some());
        assert_eq!(key(&plan, &MessageMeta::default(), &[0; CACHE_KEY_MAX - 3]), None);
    }
}
