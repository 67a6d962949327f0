//! The typed interface: the generated bindings, and the way between their values and ours.

use pointsman_protocol::Value as MessageValue;
use pointsman_router::packed::{Changes, Field, Plan, REASON_MAX};

use super::view::View;

#[allow(missing_docs, unreachable_pub, reason = "generated; router.wit documents it")]
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wasm-routers/wit",
        world: "typed-router",
        exports: { default: async },
    });
}

pub(crate) use bindings::exports::pointsman::router::typed::{
    Changes as TypedChanges, Decision, Delivery, Header, Message, Plan as TypedPlan, Value,
};
pub(crate) use bindings::pointsman::router::host::{Host as Imports, Level, add_to_linker as add_imports};
pub(crate) use bindings::{TypedRouter, TypedRouterPre};

use bindings::exports::pointsman::router::typed::Fields as FieldFlags;

/// The flag of each field.
const FLAGS: [(FieldFlags, Field); 11] = [
    (FieldFlags::ROUTING_KEY, Field::RoutingKey),
    (FieldFlags::PERSISTENT, Field::Persistent),
    (FieldFlags::PRIORITY, Field::Priority),
    (FieldFlags::MESSAGE_ID, Field::MessageId),
    (FieldFlags::TIMESTAMP, Field::Timestamp),
    (FieldFlags::EXPIRATION, Field::Expiration),
    (FieldFlags::CONTENT_TYPE, Field::ContentType),
    (FieldFlags::CONTENT_ENCODING, Field::ContentEncoding),
    (FieldFlags::CORRELATION_ID, Field::CorrelationId),
    (FieldFlags::REPLY_TO, Field::ReplyTo),
    (FieldFlags::ALL_HEADERS, Field::AllHeaders),
];

/// The plan, and the names it warns of.
pub(crate) fn plan(typed: TypedPlan) -> (Plan, Vec<String>) {
    let mut plan = Plan::new().body_up_to(typed.body_up_to);
    for (flag, field) in FLAGS {
        if typed.fields.contains(flag) {
            plan = plan.field(field);
        }
    }
    plan = typed.headers.into_iter().fold(plan, Plan::header);
    if typed.cacheable {
        plan = plan.cacheable();
    }
    (plan, typed.unbound)
}

/// What the plan declares of a message.
pub(crate) fn message(plan: &Plan, view: &View<'_>) -> Message {
    let meta = &view.meta;
    let text = |field: Field, value: Option<&str>| value.filter(|_| plan.has(field)).map(str::to_owned);
    let number = |field: Field, value: Option<u64>| value.filter(|_| plan.has(field));
    let wanted = |name: &str| plan.has(Field::AllHeaders) || plan.headers().iter().any(|known| known == name);
    let body = view.body().len().min(plan.body_limit() as usize);
    Message {
        routing_key: text(Field::RoutingKey, Some(meta.routing_key)).unwrap_or_default(),
        persistent: plan.has(Field::Persistent) && meta.persistent,
        priority: if plan.has(Field::Priority) {
            meta.priority
        } else {
            0
        },
        message_id: text(Field::MessageId, meta.message_id),
        timestamp: number(Field::Timestamp, meta.timestamp),
        expiration: number(Field::Expiration, meta.expiration),
        content_type: text(Field::ContentType, meta.content_type),
        content_encoding: text(Field::ContentEncoding, meta.content_encoding),
        correlation_id: text(Field::CorrelationId, meta.correlation_id),
        reply_to: text(Field::ReplyTo, meta.reply_to),
        headers: meta
            .headers()
            .filter(|(name, _)| wanted(name))
            .map(header)
            .collect(),
        body: view.body()[..body].to_vec(),
        body_length: if plan.body_limit() > 0 {
            view.body().len() as u32
        } else {
            0
        },
    }
}

fn header((name, value): (&str, MessageValue<'_>)) -> Header {
    Header {
        name: name.to_owned(),
        value: match value {
            MessageValue::Bool(truth) => Value::Bool(truth),
            MessageValue::Int(number) => Value::Int(number),
            MessageValue::Float(number) => Value::Float(number),
            MessageValue::Str(text) => Value::Str(text.to_owned()),
            MessageValue::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        },
    }
}

/// The changes of a delivery, as the packed interface has them.
pub(crate) fn changes(typed: &TypedChanges) -> Changes<'_> {
    Changes {
        routing_key: typed.routing_key.as_deref(),
        priority: typed.priority,
        expiration: typed.expiration,
        delay: typed.delay,
        remove_headers: typed.remove_headers.iter().map(String::as_str).collect(),
        set_headers: typed
            .set_headers
            .iter()
            .map(|h| (h.name.as_str(), value(&h.value)))
            .collect(),
        body: typed.body.as_deref(),
    }
}

fn value(typed: &Value) -> pointsman_router::Value<'_> {
    match typed {
        Value::Bool(truth) => pointsman_router::Value::Bool(*truth),
        Value::Int(number) => pointsman_router::Value::Int(*number),
        Value::Float(number) => pointsman_router::Value::Float(*number),
        Value::Str(text) => pointsman_router::Value::Str(text),
        Value::Bytes(bytes) => pointsman_router::Value::Bytes(bytes),
    }
}

/// A reason, cut to its limit as the SDK cuts it.
pub(crate) fn reason(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON_MAX));
    text
}
