//! What a rule asks of one part of a message.

use std::cmp::Ordering;

use pointsman_router::select::Scalar;
use serde_json::Value;

/// A test of a part. A part that is not there, or of another type, fails all but [`Test::Exists`].
pub(crate) enum Test {
    Among(Vec<Operand>),
    Prefix(String),
    Greater(Operand),
    Less(Operand),
    Exists(bool),
}

/// What the configuration compares with.
pub(crate) enum Operand {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Test {
    pub(crate) fn holds(&self, part: Option<&Scalar<'_>>) -> bool {
        match (self, part) {
            (Test::Exists(wanted), part) => part.is_some() == *wanted,
            (_, None) => false,
            (Test::Among(operands), Some(part)) => operands
                .iter()
                .any(|operand| operand.compare(part) == Some(Ordering::Equal)),
            (Test::Prefix(prefix), Some(Scalar::Text(text))) => text.starts_with(prefix),
            (Test::Prefix(_), Some(_)) => false,
            (Test::Greater(operand), Some(part)) => operand.compare(part) == Some(Ordering::Greater),
            (Test::Less(operand), Some(part)) => operand.compare(part) == Some(Ordering::Less),
        }
    }
}

impl Operand {
    /// How the part stands to the operand; `None` when their types do not compare.
    fn compare(&self, part: &Scalar<'_>) -> Option<Ordering> {
        match (part, self) {
            (Scalar::Null, Operand::Null) => Some(Ordering::Equal),
            (Scalar::Bool(part), Operand::Bool(operand)) => Some(part.cmp(operand)),
            (Scalar::Int(part), Operand::Int(operand)) => Some(part.cmp(operand)),
            (Scalar::Int(part), Operand::Float(operand)) => (*part as f64).partial_cmp(operand),
            (Scalar::Float(part), Operand::Int(operand)) => part.partial_cmp(&(*operand as f64)),
            (Scalar::Float(part), Operand::Float(operand)) => part.partial_cmp(operand),
            (Scalar::Text(part), Operand::Text(operand)) => Some(part.as_ref().cmp(operand)),
            _ => None,
        }
    }
}

impl TryFrom<Value> for Operand {
    type Error = String;

    fn try_from(value: Value) -> Result<Operand, String> {
        match value {
            Value::Null => Ok(Operand::Null),
            Value::Bool(truth) => Ok(Operand::Bool(truth)),
            Value::String(text) => Ok(Operand::Text(text)),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Ok(Operand::Int(number)),
                (None, Some(number)) => Ok(Operand::Float(number)),
                (None, None) => Err(format!("{number} is no number that can be compared")),
            },
            Value::Array(_) | Value::Object(_) => Err(format!(
                "{value} cannot be compared; write a text, a number, true, false or null"
            )),
        }
    }
}
