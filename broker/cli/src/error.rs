//! Why a command did not do what it was asked: a sentence, a hint and an exit code.

use std::io::Write;
use std::process::ExitCode;

use pointsman_protocol::ErrorBody;
use pointsman_protocol::admin::Reply;
use serde::Serialize;

use crate::output::Format;

/// Exit code of a command that was refused or failed.
const EXIT_FAILED: u8 = 1;
/// Exit code of a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The command line or a file the user wrote is wrong; nothing was done.
    Usage(Problem),
    /// The broker refused, or something on the way failed.
    Failed(Problem),
    /// Whoever read our output went away, as `head` does; there is nobody left to tell.
    OutputClosed,
}

/// What is told about an error; these are the fields of the JSON error object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// A stable word for programs: a broker's error code, or one of ours.
    pub(crate) code: String,
    /// One sentence without a full stop.
    pub(crate) message: String,
    /// What the reader can do, or empty.
    pub(crate) hint: String,
}

impl CliError {
    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> CliError {
        CliError::Usage(Problem::new("Usage", message))
    }

    /// Something failed; `code` is the stable word for it.
    pub(crate) fn failed(code: &str, message: impl Into<String>) -> CliError {
        CliError::Failed(Problem::new(code, message))
    }

    /// A file or folder could not be used; `doing` continues "cannot".
    pub(crate) fn file(doing: &str, path: &std::path::Path, error: &std::io::Error) -> CliError {
        CliError::failed("File", format!("cannot {doing} {}: {error}", path.display()))
    }

    /// The broker answered a request with a reply of another kind.
    pub(crate) fn unexpected(reply: &Reply) -> CliError {
        let kind = format!("{reply:?}");
        let kind = kind.split(['(', ' ', '{']).next().unwrap_or_default();
        CliError::failed(
            "UnexpectedReply",
            format!("the broker answered with `{kind}`, which does not fit the request"),
        )
        .hint("check that `pointsman status` shows the same version as `pointsman --version`")
    }

    /// The same error with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> CliError {
        if let CliError::Usage(problem) | CliError::Failed(problem) = &mut self {
            problem.hint = hint.into();
        }
        self
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            CliError::Usage(_) => ExitCode::from(EXIT_USAGE),
            CliError::Failed(_) => ExitCode::from(EXIT_FAILED),
            CliError::OutputClosed => ExitCode::SUCCESS,
        }
    }

    /// Tells the user on standard error: two lines for people, one JSON object for programs.
    pub(crate) fn report(&self, format: Format) {
        let (CliError::Usage(problem) | CliError::Failed(problem)) = self else {
            return;
        };
        // Nothing is left to be done when standard error is closed as well.
        let _ = std::io::stderr()
            .lock()
            .write_all(problem.render(format).as_bytes());
    }
}

impl Problem {
    fn new(code: &str, message: impl Into<String>) -> Problem {
        Problem {
            code: code.to_owned(),
            message: message.into(),
            hint: String::new(),
        }
    }

    fn render(&self, format: Format) -> String {
        match format {
            Format::Json => format!("{}\n", serde_json::json!({ "error": self })),
            Format::Table if self.hint.is_empty() => format!("error: {}\n", self.message),
            Format::Table => format!("error: {}\nhint: {}\n", self.message, self.hint),
        }
    }
}

impl From<ErrorBody> for CliError {
    fn from(body: ErrorBody) -> CliError {
        CliError::failed(body.code.name(), body.message).hint(body.hint)
    }
}

/// Errors of writing our output.
impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> CliError {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            CliError::OutputClosed
        } else {
            CliError::failed("Output", format!("cannot write the output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointsman_protocol::ErrorCode;

    #[test]
    fn a_refusal_of_the_broker_keeps_its_code_sentence_and_hint() {
        let body = ErrorBody::new(ErrorCode::NotFound, "there is no queue `q`").hint("declare it");
        let CliError::Failed(problem) = CliError::from(body) else {
            panic!("a refusal is a failure");
        };
        assert_eq!(
            problem.render(Format::Table),
            "error: there is no queue `q`\nhint: declare it\n"
        );
        let json: serde_json::Value = serde_json::from_str(&problem.render(Format::Json)).unwrap();
        assert_eq!(json["error"]["code"], "NotFound");
        assert_eq!(json["error"]["message"], "there is no queue `q`");
        assert_eq!(json["error"]["hint"], "declare it");
    }

    #[test]
    fn an_error_without_a_hint_is_one_line() {
        let CliError::Usage(problem) = CliError::usage("no body") else {
            panic!("usage is usage");
        };
        assert_eq!(problem.render(Format::Table), "error: no body\n");
    }

    #[test]
    fn a_closed_pipe_is_not_a_failure() {
        let error = CliError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(matches!(error, CliError::OutputClosed));
    }

    #[test]
    fn a_reply_of_the_wrong_kind_is_named_without_its_contents() {
        let CliError::Failed(problem) = CliError::unexpected(&Reply::Names(vec!["secret".into()])) else {
            panic!("a wrong reply is a failure");
        };
        assert!(problem.message.contains("`Names`") && !problem.message.contains("secret"));
    }
}
