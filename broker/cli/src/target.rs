//! Which broker a command talks to and as whom: flags over environment over context.

use std::path::{Path, PathBuf};

use pointsman_protocol::{DEFAULT_PORT, DEFAULT_VHOST};

use crate::args::GlobalArgs;
use crate::contexts::{self, Context, Contexts};
use crate::error::CliError;

/// Where to connect and who we are.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) vhost: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// The CA certificate in PEM.
    pub(crate) ca: PathBuf,
}

/// Settings of one source, each of which may be absent.
type Layer = Context;

/// The contexts file these arguments and this environment mean.
pub(crate) fn contexts_path(
    args: &GlobalArgs,
    env: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, CliError> {
    match (&args.contexts_file, env("POINTSMAN_CONTEXTS_FILE")) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(path)) => Ok(path.into()),
        (None, None) => contexts::default_path(),
    }
}

/// Puts the target together. `env` looks up one variable.
pub(crate) fn resolve(args: &GlobalArgs, env: impl Fn(&str) -> Option<String>) -> Result<Target, CliError> {
    let contexts = Contexts::load(&contexts_path(args, &env)?)?;
    let context = match args.context.clone().or_else(|| env("POINTSMAN_CONTEXT")) {
        Some(name) => Some(contexts.get(&name)?),
        None => contexts.current()?,
    };
    let explicit = over(flags(args)?, environment(env)?);
    merge(explicit, context.cloned().unwrap_or_default())
}

fn flags(args: &GlobalArgs) -> Result<Layer, CliError> {
    let from_file = args.password_file.as_deref().map(read_password).transpose()?;
    Ok(Layer {
        server: args.server.clone(),
        ca: args.ca.clone(),
        vhost: args.vhost.clone(),
        user: args.user.clone(),
        password: args.password.clone().or(from_file),
    })
}

fn environment(env: impl Fn(&str) -> Option<String>) -> Result<Layer, CliError> {
    let from_file = env("POINTSMAN_PASSWORD_FILE")
        .map(|path| read_password(Path::new(&path)))
        .transpose()?;
    Ok(Layer {
        server: env("POINTSMAN_SERVER"),
        ca: env("POINTSMAN_CA").map(PathBuf::from),
        vhost: env("POINTSMAN_VHOST"),
        user: env("POINTSMAN_USER"),
        password: env("POINTSMAN_PASSWORD").or(from_file),
    })
}

fn over(upper: Layer, lower: Layer) -> Layer {
    Layer {
        server: upper.server.or(lower.server),
        ca: upper.ca.or(lower.ca),
        vhost: upper.vhost.or(lower.vhost),
        user: upper.user.or(lower.user),
        password: upper.password.or(lower.password),
    }
}

/// Lays what was said explicitly over the context. A context's credentials go to that context's server only, and its
/// password to its user only.
fn merge(explicit: Layer, mut context: Layer) -> Result<Target, CliError> {
    let elsewhere = explicit.server.is_some() && explicit.server != context.server;
    if elsewhere {
        context = Layer {
            vhost: context.vhost,
            ..Layer::default()
        };
    }
    if explicit.user.is_some() && explicit.user != context.user {
        context.password = None;
    }
    let all = over(explicit, context);
    let server = all.server.unwrap_or_else(|| format!("127.0.0.1:{DEFAULT_PORT}"));
    let (host, port) = split_server(&server)?;
    let missing = |what: &str, flag: &str| {
        let hint = match elsewhere {
            true => format!("give {flag}: what a context holds is used for that context's server only"),
            false => {
                format!(
                    "start `pointsman serve` once on this machine, give {flag}, or name a context with --context"
                )
            }
        };
        CliError::usage(format!("no {what} is known for the broker at {server}")).hint(hint)
    };
    Ok(Target {
        host,
        port,
        vhost: all.vhost.unwrap_or_else(|| DEFAULT_VHOST.to_owned()),
        user: all.user.ok_or_else(|| missing("user", "--user"))?,
        password: all
            .password
            .ok_or_else(|| missing("password", "--password-file"))?,
        ca: all.ca.ok_or_else(|| missing("CA certificate", "--ca"))?,
    })
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_server(server: &str) -> Result<(String, u16), CliError> {
    let wrong = || {
        CliError::usage(format!("`{server}` is not a server address")).hint(format!(
            "write host:port, such as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}"
        ))
    };
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            match after {
                "" => (host, None),
                _ => (host, Some(after.strip_prefix(':').ok_or_else(wrong)?)),
            }
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let port = match port {
        Some(digits) => digits.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?,
        None => DEFAULT_PORT,
    };
    if host.is_empty() {
        Err(wrong())
    } else {
        Ok((host.to_owned(), port))
    }
}

fn read_password(path: &Path) -> Result<String, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::file("read the password file", path, &error))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(CliError::usage(format!(
            "the password file {} is empty",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Layer {
        Layer {
            server: Some("ctx:1".into()),
            ca: Some("/ctx.pem".into()),
            vhost: Some("ctx".into()),
            user: Some("ctx-user".into()),
            password: Some("ctx-pw".into()),
        }
    }

    fn refused(explicit: Layer, context: Layer) -> String {
        match merge(explicit, context) {
            Err(CliError::Usage(problem)) => problem.message,
            Err(_) | Ok(_) => panic!("it is a usage error"),
        }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_context() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        let contexts = Contexts {
            current: None,
            contexts: [("c".to_owned(), context())].into(),
        };
        contexts.save(&path).unwrap();
        let args = GlobalArgs {
            vhost: Some("flag".into()),
            contexts_file: Some(path),
            context: Some("c".into()),
            ..GlobalArgs::default()
        };
        let env = |name: &str| match name {
            "POINTSMAN_VHOST" | "POINTSMAN_CA" => Some("env".to_owned()),
            _ => None,
        };
        let target = resolve(&args, env).unwrap_or_else(|_| panic!("it resolves"));
        assert_eq!(target.vhost, "flag");
        assert_eq!(target.ca, PathBuf::from("env"));
        assert_eq!((target.host.as_str(), target.port), ("ctx", 1));
        assert_eq!(
            (target.user.as_str(), target.password.as_str()),
            ("ctx-user", "ctx-pw")
        );
    }

    #[test]
    fn a_contexts_password_is_not_sent_to_another_server() {
        let explicit = Layer {
            server: Some("other:1".into()),
            ca: Some("/x".into()),
            ..Layer::default()
        };
        assert_eq!(
            refused(explicit, context()),
            "no user is known for the broker at other:1"
        );
    }

    #[test]
    fn a_contexts_password_is_not_sent_for_another_user() {
        let explicit = Layer {
            user: Some("else".into()),
            ..Layer::default()
        };
        assert_eq!(
            refused(explicit, context()),
            "no password is known for the broker at ctx:1"
        );
    }

    #[test]
    fn without_any_setting_the_hint_tells_how_to_begin() {
        assert_eq!(
            refused(Layer::default(), Layer::default()),
            "no user is known for the broker at 127.0.0.1:7654"
        );
    }

    #[test]
    fn servers_are_split_into_host_and_port() {
        let split = |server| split_server(server).ok();
        assert_eq!(split("broker"), Some(("broker".to_owned(), DEFAULT_PORT)));
        assert_eq!(split("10.0.0.1:99"), Some(("10.0.0.1".to_owned(), 99)));
        assert_eq!(split("[::1]:99"), Some(("::1".to_owned(), 99)));
        assert_eq!(split("[::1]"), Some(("::1".to_owned(), DEFAULT_PORT)));
        for wrong in ["", ":1", "a:", "a:x", "a:0", "a:70000", "::1", "[::1", "[::1]99"] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_password_file_gives_its_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pw");
        std::fs::write(&path, "secret\nrest\n").unwrap();
        assert_eq!(read_password(&path).ok().as_deref(), Some("secret"));
        std::fs::write(&path, "\n").unwrap();
        assert!(read_password(&path).is_err());
    }
}
