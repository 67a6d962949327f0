//! The file that `pointsman export` writes and `pointsman import` reads: what is declared, without messages and users.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pointsman_protocol::ParseFsyncError;
use pointsman_protocol::admin::{
    Argument, BindingSpec, Destination, ExchangeKind, ExchangeSpec, QueueKind, QueueSpec, Retention,
};
use serde::{Deserialize, Serialize};

use crate::error::CliError;
use crate::values;

/// The version of the file's form. Raised when an older program could no longer read what is written.
const VERSION: u32 = 1;

/// Everything that is declared.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definitions {
    /// The version of this form.
    pointsman: u32,
    pub(crate) vhosts: Vec<Vhost>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Vhost {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) routers: Vec<Router>,
    #[serde(default)]
    pub(crate) queues: Vec<Queue>,
    #[serde(default)]
    pub(crate) exchanges: Vec<Exchange>,
    #[serde(default)]
    pub(crate) bindings: Vec<Binding>,
}

/// The active version of a router.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Router {
    pub(crate) name: String,
    /// In base64.
    pub(crate) config: String,
    /// In base64.
    pub(crate) module: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Queue {
    pub(crate) name: String,
    #[serde(default = "yes")]
    pub(crate) durable: bool,
    #[serde(default)]
    pub(crate) auto_delete: bool,
    /// As `queue declare --fsync` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fsync: Option<String>,
    /// How long messages may wait in it before they expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) message_ttl_ms: Option<u64>,
    /// Makes it a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<Stream>,
}

/// When a stream drops messages.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stream {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_age_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_messages: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exchange {
    pub(crate) name: String,
    pub(crate) kind: String,
    #[serde(default = "yes")]
    pub(crate) durable: bool,
    #[serde(default)]
    pub(crate) auto_delete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) alternate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) router: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Binding {
    pub(crate) source: String,
    /// One of these two is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queue: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exchange: Option<String>,
    #[serde(default)]
    pub(crate) key: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) arguments: BTreeMap<String, Value>,
}

/// The value of a binding argument.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
    Bytes { base64: String },
}

fn yes() -> bool {
    true
}

/// The form of a file, by its ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Toml,
}

impl Form {
    /// `.json` or `.toml`.
    pub(crate) fn of(path: &Path) -> Result<Form, CliError> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("json") => Ok(Form::Json),
            Some("toml") => Ok(Form::Toml),
            _ => Err(
                CliError::usage(format!("{} ends neither in .json nor in .toml", path.display()))
                    .hint("the ending says in which form definitions are written"),
            ),
        }
    }
}

impl Definitions {
    pub(crate) fn new(vhosts: Vec<Vhost>) -> Definitions {
        Definitions {
            pointsman: VERSION,
            vhosts,
        }
    }

    pub(crate) fn write(&self, form: Form) -> Result<String, CliError> {
        let written = match form {
            Form::Json => serde_json::to_string_pretty(self).map_err(|error| error.to_string()),
            Form::Toml => toml::to_string_pretty(self).map_err(|error| error.to_string()),
        };
        written
            .map(|text| format!("{}\n", text.trim_end()))
            .map_err(|error| CliError::failed("Output", format!("cannot write the definitions: {error}")))
    }

    pub(crate) fn read(text: &str, form: Form) -> Result<Definitions, String> {
        let read: Definitions = match form {
            Form::Json => serde_json::from_str(text).map_err(|error| error.to_string())?,
            Form::Toml => toml::from_str(text).map_err(|error| error.to_string())?,
        };
        if read.pointsman > VERSION {
            return Err(format!(
                "it has form {}, this version reads up to {VERSION}",
                read.pointsman
            ));
        }
        Ok(read)
    }
}

impl From<QueueSpec> for Queue {
    fn from(spec: QueueSpec) -> Queue {
        Queue {
            name: spec.name,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            fsync: spec.fsync.map(|fsync| fsync.to_string()),
            message_ttl_ms: spec.message_ttl_ms,
            stream: spec.kind.retention().map(|retention| Stream {
                max_age_ms: retention.max_age_ms,
                max_bytes: retention.max_bytes,
                max_messages: retention.max_messages,
            }),
        }
    }
}

impl Queue {
    pub(crate) fn spec(&self) -> Result<QueueSpec, String> {
        let fsync = self.fsync.as_deref().map(str::parse).transpose();
        let kind = self.stream.as_ref().map(|stream| {
            QueueKind::Stream(Retention {
                max_age_ms: stream.max_age_ms,
                max_bytes: stream.max_bytes,
                max_messages: stream.max_messages,
            })
        });
        Ok(QueueSpec {
            durable: self.durable,
            auto_delete: self.auto_delete,
            fsync: fsync.map_err(|error: ParseFsyncError| error.to_string())?,
            kind: kind.unwrap_or_default(),
            message_ttl_ms: self.message_ttl_ms,
            ..QueueSpec::new(self.name.clone())
        })
    }
}

impl From<ExchangeSpec> for Exchange {
    fn from(spec: ExchangeSpec) -> Exchange {
        Exchange {
            name: spec.name,
            kind: spec.kind.name().to_owned(),
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            alternate: spec.alternate,
            router: spec.router,
        }
    }
}

impl Exchange {
    pub(crate) fn spec(&self) -> Result<ExchangeSpec, String> {
        let mut names = ExchangeKind::NAMES.iter();
        let (_, kind) = names
            .find(|(name, _)| *name == self.kind)
            .ok_or_else(|| format!("there is no kind of exchange `{}`", self.kind))?;
        Ok(ExchangeSpec {
            name: self.name.clone(),
            kind: *kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            alternate: self.alternate.clone(),
            router: self.router.clone(),
        })
    }
}

impl From<BindingSpec> for Binding {
    fn from(spec: BindingSpec) -> Binding {
        let (queue, exchange) = match spec.destination {
            Destination::Queue(name) => (Some(name), None),
            Destination::Exchange(name) => (None, Some(name)),
        };
        let value = |argument| match argument {
            Argument::Bool(value) => Value::Bool(value),
            Argument::Int(value) => Value::Int(value),
            Argument::Str(value) => Value::Text(value),
            Argument::Bytes(value) => Value::Bytes {
                base64: values::base64(&value),
            },
        };
        Binding {
            source: spec.source,
            queue,
            exchange,
            key: spec.key,
            arguments: spec
                .arguments
                .into_iter()
                .map(|(name, argument)| (name, value(argument)))
                .collect(),
        }
    }
}

impl Binding {
    pub(crate) fn spec(&self) -> Result<BindingSpec, String> {
        let destination = match (&self.queue, &self.exchange) {
            (Some(queue), None) => Destination::Queue(queue.clone()),
            (None, Some(exchange)) => Destination::Exchange(exchange.clone()),
            _ => return Err("a binding goes to a `queue` or to an `exchange`".to_owned()),
        };
        let mut arguments = Vec::new();
        for (name, value) in &self.arguments {
            let argument = match value {
                Value::Bool(value) => Argument::Bool(*value),
                Value::Int(value) => Argument::Int(*value),
                Value::Text(value) => Argument::Str(value.clone()),
                Value::Bytes { base64 } => Argument::Bytes(bytes(base64)?),
            };
            arguments.push((name.clone(), argument));
        }
        Ok(BindingSpec {
            source: self.source.clone(),
            destination,
            key: self.key.clone(),
            arguments,
        })
    }
}

/// Bytes of their base64 form.
pub(crate) fn bytes(base64: &str) -> Result<Vec<u8>, String> {
    BASE64_STANDARD
        .decode(base64)
        .map_err(|error| format!("`{base64:.20}` is not base64: {error}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pointsman_protocol::Fsync;

    use super::*;

    fn large() -> QueueSpec {
        QueueSpec::new("large")
            .fsync(Fsync::Interval(5))
            .message_ttl(Duration::from_secs(60))
    }

    fn definitions() -> Definitions {
        let mut binding = BindingSpec::to_queue("orders", "large", "k");
        binding.arguments = vec![
            ("a".to_owned(), Argument::Bytes(vec![0, 255])),
            ("b".to_owned(), Argument::Int(-1)),
            ("c".to_owned(), Argument::Bool(true)),
            ("d".to_owned(), Argument::Str("1".to_owned())),
        ];
        Definitions::new(vec![Vhost {
            name: "/".to_owned(),
            routers: vec![Router {
                name: "r".to_owned(),
                config: String::new(),
                module: values::base64(b"\0asm"),
            }],
            queues: vec![large().into(), QueueSpec::stream("history").max_bytes(5).into()],
            exchanges: vec![ExchangeSpec::new("orders", ExchangeKind::ConsistentHash).into()],
            bindings: vec![binding.into()],
        }])
    }

    #[test]
    fn definitions_read_back_as_they_were_in_both_forms() {
        for form in [Form::Json, Form::Toml] {
            let text = definitions().write(form).unwrap();
            let read = Definitions::read(&text, form).unwrap();
            assert_eq!(read, definitions(), "{text}");
            let [vhost] = read.vhosts.as_slice() else {
                panic!("one vhost")
            };
            assert_eq!(vhost.queues[0].spec().unwrap(), large());
            let history = QueueSpec::stream("history").max_bytes(5);
            assert_eq!(vhost.queues[1].spec().unwrap(), history);
            let binding = vhost.bindings[0].spec().unwrap();
            assert_eq!(binding.arguments[0].1, Argument::Bytes(vec![0, 255]));
            assert_eq!(
                vhost.exchanges[0].spec().unwrap().kind,
                ExchangeKind::ConsistentHash
            );
        }
    }

    #[test]
    fn a_file_of_a_later_form_or_with_an_unknown_key_is_refused() {
        assert!(Definitions::read(r#"{"pointsman": 2, "vhosts": []}"#, Form::Json).is_err());
        let error = Definitions::read("pointsman = 1\nvhost = []\n", Form::Toml).unwrap_err();
        assert!(error.contains("vhost"), "{error}");
    }

    #[test]
    fn a_binding_to_nothing_or_to_two_places_is_refused() {
        for (queue, exchange) in [(None, None), (Some("q"), Some("x"))] {
            let binding = Binding {
                source: "s".to_owned(),
                queue: queue.map(str::to_owned),
                exchange: exchange.map(str::to_owned),
                key: String::new(),
                arguments: BTreeMap::new(),
            };
            assert!(binding.spec().is_err());
        }
    }
}
