//! From what a script answers to a decision.

use std::collections::HashMap;

use pointsman_router::{Decision, Delivery, Target, Value};
use rhai::{Array, Blob, Dynamic, ImmutableString, Map};

type Names = HashMap<String, Target>;

/// The decision that an answer of `route` stands for.
pub(crate) fn decision(answer: Dynamic, targets: &Names) -> Result<Decision, String> {
    if answer.is_unit() {
        return Ok(Decision::Unroutable);
    }
    if answer.is_string() {
        return Ok(Decision::to(target(&answer, targets)?));
    }
    if answer.is_map() {
        let map = answer.cast::<Map>();
        return match map.get("reject") {
            Some(reason) => Ok(Decision::reject(reason.to_string())),
            None => Ok(delivery(map, targets)?.into()),
        };
    }
    let Some(list) = answer.read_lock::<Array>().map(|list| list.clone()) else {
        return Err(format!(
            "the script answered {}; `route` answers a target's name, a list, a map or ()",
            answer.type_name()
        ));
    };
    if list.iter().all(Dynamic::is_string) {
        let named: Result<Vec<_>, _> = list.iter().map(|name| target(name, targets)).collect();
        return named.map(Decision::to_all);
    }
    let deliveries: Result<Vec<_>, _> = list
        .into_iter()
        .map(|item| item_delivery(item, targets))
        .collect();
    deliveries.map(Decision::changed)
}

fn item_delivery(item: Dynamic, targets: &Names) -> Result<Delivery, String> {
    match item.is_map() {
        true => delivery(item.cast::<Map>(), targets),
        false => Ok(Delivery::to(target(&item, targets)?)),
    }
}

fn target(name: &Dynamic, targets: &Names) -> Result<Target, String> {
    let name = name
        .read_lock::<ImmutableString>()
        .ok_or("a target is named by a text")?;
    let known = targets.get(name.as_str()).copied();
    known.ok_or_else(|| format!("the script names the target `{}`, which no binding has", *name))
}

/// A map such as `#{to: "paid", headers: #{seen: true}}`.
fn delivery(mut map: Map, targets: &Names) -> Result<Delivery, String> {
    let to = map
        .remove("to")
        .ok_or("a map that `route` answers needs `to` or `reject`")?;
    let mut delivery = Delivery::to(target(&to, targets)?);
    for (name, value) in map {
        delivery = change(delivery, &name, value)?;
    }
    Ok(delivery)
}

fn change(delivery: Delivery, name: &str, value: Dynamic) -> Result<Delivery, String> {
    let wrong =
        |expected: &str, value: &Dynamic| format!("`{name}` is {}, not {expected}", value.type_name());
    match name {
        "routing_key" => {
            let key = value
                .as_immutable_string_ref()
                .map_err(|_| wrong("a text", &value))?;
            Ok(delivery.routing_key(key.as_str()))
        }
        "priority" => {
            let priority = value.as_int().ok().and_then(|number| u8::try_from(number).ok());
            Ok(delivery.priority(priority.ok_or_else(|| wrong("a number from 0 to 255", &value))?))
        }
        "expires_after" => {
            let after = value.as_int().ok().and_then(|number| u64::try_from(number).ok());
            Ok(delivery.expires_after(after.ok_or_else(|| wrong("a number of milliseconds", &value))?))
        }
        "delay" => {
            let delay = value.as_int().ok().and_then(|number| u64::try_from(number).ok());
            Ok(delivery.delay(delay.ok_or_else(|| wrong("a number of milliseconds", &value))?))
        }
        "headers" => {
            let headers = value.read_lock::<Map>().ok_or_else(|| wrong("a map", &value))?;
            headers.iter().try_fold(delivery, |delivery, (name, value)| {
                set_header(delivery, name, value)
            })
        }
        "body" => match value.is_blob() {
            true => Ok(delivery.body(value.cast::<Blob>())),
            false => {
                let text = value
                    .as_immutable_string_ref()
                    .map_err(|_| wrong("a text or a blob", &value))?;
                Ok(delivery.body(text.as_bytes()))
            }
        },
        other => Err(format!(
            "`{other}` cannot be changed; a map has `to`, `routing_key`, `priority`, `expires_after`, `delay`, `headers`, `body`"
        )),
    }
}

/// Sets a header, or removes it when its value is ().
fn set_header(delivery: Delivery, name: &str, value: &Dynamic) -> Result<Delivery, String> {
    if value.is_unit() {
        return Ok(delivery.without_header(name));
    }
    if let Ok(truth) = value.as_bool() {
        return Ok(delivery.header(name, truth));
    }
    if let Ok(number) = value.as_int() {
        return Ok(delivery.header(name, number));
    }
    if let Ok(number) = value.as_float() {
        return Ok(delivery.header(name, number));
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return Ok(delivery.header(name, text.as_str()));
    }
    let bytes = value.read_lock::<Blob>().ok_or_else(|| {
        format!(
            "the header `{name}` is {}, which a header cannot hold",
            value.type_name()
        )
    })?;
    Ok(delivery.header(name, Value::Bytes(&bytes)))
}
