//! `NAME=VALUE` as it is written on the command line, and header values as they are shown.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pointsman_protocol::admin::Argument;
use serde_json::{Value as Json, json};

use crate::error::CliError;

/// One `NAME=VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    pub(crate) name: String,
    pub(crate) value: Scalar,
}

/// A typed value: `true` and `false`, numbers in their usual form, and text for everything else or in double quotes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// Parses one `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("the name before `=` is empty".to_owned()),
        Some((name, value)) => Ok(Pair {
            name: name.to_owned(),
            value: Scalar::parse(value),
        }),
        None => Err("write it as NAME=VALUE".to_owned()),
    }
}

impl Scalar {
    /// A number counts as one only when it reads back the same, so that `007` and `1e3` stay text.
    fn parse(text: &str) -> Scalar {
        if let Some(quoted) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            return Scalar::Text(quoted.to_owned());
        }
        if let Ok(value) = text.parse::<bool>() {
            return Scalar::Bool(value);
        }
        match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(value), _) if value.to_string() == text => Scalar::Int(value),
            (Err(_), Ok(value)) if text.contains('.') && value.to_string() == text => Scalar::Float(value),
            _ => Scalar::Text(text.to_owned()),
        }
    }
}

impl Pair {
    /// As a binding argument, which is never a fraction.
    pub(crate) fn argument(&self) -> Result<(String, Argument), CliError> {
        let value = match &self.value {
            Scalar::Bool(value) => Argument::Bool(*value),
            Scalar::Int(value) => Argument::Int(*value),
            Scalar::Text(value) => Argument::Str(value.clone()),
            Scalar::Float(value) => {
                return Err(
                    CliError::usage(format!("the argument {} = {value} is a fraction", self.name)).hint(
                        format!(
                            "binding arguments are compared exactly; write {}=\"{value}\" to mean the text",
                            self.name
                        ),
                    ),
                );
            }
        };
        Ok((self.name.clone(), value))
    }
}

/// A binding argument in JSON.
pub(crate) fn argument_json(value: Argument) -> Json {
    match value {
        Argument::Bool(value) => json!(value),
        Argument::Int(value) => json!(value),
        Argument::Str(value) => json!(value),
        Argument::Bytes(value) => json!({ "base64": base64(&value) }),
    }
}

/// Bytes in base64 (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_by_how_they_look() {
        assert_eq!(Scalar::parse("true"), Scalar::Bool(true));
        assert_eq!(Scalar::parse("-12"), Scalar::Int(-12));
        assert_eq!(Scalar::parse("0.5"), Scalar::Float(0.5));
        for text in [
            "eu",
            "",
            "007",
            "+1",
            "1e3",
            "1.50",
            "inf",
            "NaN",
            "99999999999999999999",
        ] {
            assert_eq!(Scalar::parse(text), Scalar::Text(text.into()));
        }
    }

    #[test]
    fn double_quotes_make_text() {
        assert_eq!(Scalar::parse("\"5\""), Scalar::Text("5".into()));
        assert_eq!(Scalar::parse("\""), Scalar::Text("\"".into()));
    }

    #[test]
    fn a_pair_needs_a_name_and_may_hold_more_equal_signs() {
        assert_eq!(
            pair("a=b=c"),
            Ok(Pair {
                name: "a".into(),
                value: Scalar::Text("b=c".into())
            })
        );
        assert!(pair("a").is_err());
        assert!(pair("=a").is_err());
    }
}
