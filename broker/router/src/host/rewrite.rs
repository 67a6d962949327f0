//! Makes the changed form of a message.

use bytes::Bytes;
use pointsman_protocol::limits::{FRAME_BODY_MAX, FRAME_META_MAX, HEADERS_MAX, KEY_MAX};
use pointsman_protocol::message::check_times;
use pointsman_protocol::{MessageMeta, Value};
use pointsman_router::packed::Changes;

use super::Rewritten;
use super::store::Failure;
use super::view::View;

/// Header with the router version that failed, such as `orders@3`.
const FAILED_ROUTER: &str = "x-pointsman-failed-router";
/// Header with what failed.
const FAILURE: &str = "x-pointsman-failure";
/// Header with the exchange whose router failed.
const FAILED_AT: &str = "x-pointsman-exchange";

/// The message with a module's changes.
///
/// # Errors
/// When what results is over a limit of messages: the module's fault.
pub(crate) fn rewrite(message: &View<'_>, changes: &Changes<'_>) -> Result<Rewritten, Failure> {
    let (meta, body) = message.content.split_at(message.meta_len as usize);
    let mut meta = MessageMeta::decode(meta).map_err(|error| Failure(error.to_string()))?;
    if let Some(key) = changes.routing_key {
        meta.routing_key = within("routing key", key, KEY_MAX)?;
    }
    meta.priority = changes.priority.unwrap_or(meta.priority);
    meta.expiration = changes.expiration.or(meta.expiration);
    meta.delay = changes.delay.or(meta.delay);
    check_times(meta.expiration, meta.delay).map_err(|error| Failure(error.to_string()))?;
    meta.headers
        .retain(|(name, _)| !changes.remove_headers.contains(name));
    for (name, value) in &changes.set_headers {
        set_header(
            &mut meta,
            within("header name", name, KEY_MAX)?,
            from_guest(*value),
        );
    }
    encode(&meta, changes.body.unwrap_or(body))
}

/// The message with headers that say which module failed on it and how. It is kept at once and until someone looks at it,
/// whatever its delay and expiration.
pub(crate) fn mark_failed(message: &View<'_>, router: &str, reason: &str, exchange: &str) -> Rewritten {
    let unmarked = || Rewritten {
        content: message.content.clone(),
        meta_len: message.meta_len,
    };
    let (meta, body) = message.content.split_at(message.meta_len as usize);
    let Ok(mut meta) = MessageMeta::decode(meta) else {
        return unmarked();
    };
    for (name, text) in [(FAILED_ROUTER, router), (FAILURE, reason), (FAILED_AT, exchange)] {
        set_header(&mut meta, name, Value::Str(text));
    }
    (meta.expiration, meta.delay) = (None, None);
    // A message without room for three more headers is kept as it is; the event log has the rest.
    encode(&meta, body).unwrap_or_else(|_| unmarked())
}

/// Replaces the headers of that name, or adds one at the end.
fn set_header<'a>(meta: &mut MessageMeta<'a>, name: &'a str, value: Value<'a>) {
    let mut value = Some(value);
    meta.headers.retain_mut(|(known, old)| match *known == name {
        true => value.take().map(|new| *old = new).is_some(),
        false => true,
    });
    meta.headers.extend(value.map(|value| (name, value)));
}

fn encode(meta: &MessageMeta<'_>, body: &[u8]) -> Result<Rewritten, Failure> {
    if meta.headers.len() > HEADERS_MAX {
        return Err(Failure(format!(
            "{} headers are over the limit of {HEADERS_MAX}",
            meta.headers.len()
        )));
    }
    if body.len() > FRAME_BODY_MAX as usize {
        return Err(Failure(format!(
            "a body of {} bytes is over the limit of {FRAME_BODY_MAX}",
            body.len()
        )));
    }
    let mut content = postcard::to_extend(meta, Vec::with_capacity(256 + body.len()))
        .map_err(|error| Failure(error.to_string()))?;
    let meta_len = content.len();
    if meta_len > FRAME_META_MAX as usize {
        return Err(Failure(format!(
            "metadata of {meta_len} bytes is over the limit of {FRAME_META_MAX}"
        )));
    }
    content.extend_from_slice(body);
    Ok(Rewritten {
        content: Bytes::from(content),
        meta_len: meta_len as u32,
    })
}

fn within<'a>(part: &str, text: &'a str, limit: usize) -> Result<&'a str, Failure> {
    if text.len() > limit {
        return Err(Failure(format!(
            "a {part} of {} bytes is over the limit of {limit}",
            text.len()
        )));
    }
    Ok(text)
}

fn from_guest(value: pointsman_router::Value<'_>) -> Value<'_> {
    match value {
        pointsman_router::Value::Bool(truth) => Value::Bool(truth),
        pointsman_router::Value::Int(number) => Value::Int(number),
        pointsman_router::Value::Float(number) => Value::Float(number),
        pointsman_router::Value::Str(text) => Value::Str(text),
        pointsman_router::Value::Bytes(bytes) => Value::Bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: Vec<(&str, Value<'_>)>, body: &[u8]) -> Rewritten {
        let meta = MessageMeta {
            routing_key: "a",
            persistent: true,
            headers,
            ..Default::default()
        };
        encode(&meta, body).unwrap()
    }

    fn view(message: &Rewritten) -> View<'_> {
        View::new(&message.content, message.meta_len).unwrap()
    }

    fn parts(message: &Rewritten) -> (MessageMeta<'_>, &[u8]) {
        let (meta, body) = message.content.split_at(message.meta_len as usize);
        (MessageMeta::decode(meta).unwrap(), body)
    }

    #[test]
    fn changes_replace_what_they_name_and_keep_the_rest() {
        let before = message(
            vec![("x", Value::Int(1)), ("y", Value::Int(2)), ("x", Value::Int(3))],
            b"body",
        );
        let changes = Changes {
            routing_key: Some("b"),
            expiration: Some(5),
            delay: Some(7),
            remove_headers: vec!["y"],
            set_headers: vec![
                ("x", pointsman_router::Value::Str("one")),
                ("z", pointsman_router::Value::Bool(true)),
            ],
            ..Default::default()
        };
        let after = rewrite(&view(&before), &changes).unwrap();
        let (meta, body) = parts(&after);
        assert_eq!(
            (
                meta.routing_key,
                meta.persistent,
                meta.expiration,
                meta.delay,
                body
            ),
            ("b", true, Some(5), Some(7), &b"body"[..])
        );
        assert_eq!(meta.headers, [("x", Value::Str("one")), ("z", Value::Bool(true))]);
    }

    #[test]
    fn a_change_over_a_limit_is_the_modules_failure() {
        let key = "k".repeat(KEY_MAX + 1);
        let changes = Changes {
            routing_key: Some(&key),
            ..Default::default()
        };
        assert!(rewrite(&view(&message(vec![], b"")), &changes).is_err());
        for (expiration, delay) in [(Some(0), None), (None, Some(u64::MAX))] {
            let changes = Changes {
                expiration,
                delay,
                ..Default::default()
            };
            assert!(rewrite(&view(&message(vec![], b"")), &changes).is_err());
        }
    }

    #[test]
    fn a_failed_message_is_kept_at_once_and_does_not_expire() {
        let meta = MessageMeta {
            expiration: Some(1),
            delay: Some(60_000),
            ..Default::default()
        };
        let kept = mark_failed(&view(&encode(&meta, b"b").unwrap()), "r@1", "it trapped", "in");
        let (meta, body) = parts(&kept);
        assert_eq!((meta.expiration, meta.delay, body), (None, None, &b"b"[..]));
    }

    #[test]
    fn a_failed_message_says_who_failed_even_a_second_time() {
        let once = mark_failed(&view(&message(vec![], b"b")), "orders@3", "it trapped", "in");
        let twice = mark_failed(&view(&once), "audit@1", "it ran too long", "in");
        let (meta, _) = parts(&twice);
        assert_eq!(meta.headers.len(), 3);
        assert_eq!(meta.header(FAILED_ROUTER), Some(&Value::Str("audit@1")));
    }
}
