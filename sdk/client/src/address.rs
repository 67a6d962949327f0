//! Broker addresses: `pointsman://user:password@host:port/vhost?ca=FILE&server_name=NAME&name=PROGRAM`.

use pointsman_protocol::{DEFAULT_PORT, DEFAULT_VHOST};

use crate::Error;

/// The parts of an address; what it leaves out is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// Host and port.
    pub(crate) server: String,
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) vhost: String,
    pub(crate) ca_file: Option<String>,
    pub(crate) server_name: Option<String>,
    pub(crate) name: Option<String>,
}

impl Address {
    /// Parses an address. `user`, `password`, `vhost` and the parameters may be percent-encoded; an empty path is
    /// the default vhost.
    pub(crate) fn parse(text: &str) -> Result<Address, Error> {
        let fault = |reason: &str| Error::Address {
            given: without_password(text),
            reason: reason.to_owned(),
        };
        let decode = |part: &str| percent_decode(part).ok_or_else(|| fault("a percent code is not valid"));
        let rest = text
            .strip_prefix("pointsman://")
            .ok_or_else(|| fault("it does not start with pointsman://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user_info, server) = match authority.rsplit_once('@') {
            Some((user_info, server)) => (Some(user_info), server),
            None => (None, authority),
        };
        let mut address = Address {
            server: with_port(server).ok_or_else(|| fault("the host is missing"))?,
            vhost: match path {
                "" => DEFAULT_VHOST.to_owned(),
                path => decode(path)?,
            },
            ..Address::default()
        };
        if let Some(user_info) = user_info {
            let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
            address.credentials = Some((decode(user)?, decode(password)?));
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = Some(decode(value)?);
            match name {
                "ca" => address.ca_file = value,
                "server_name" => address.server_name = value,
                "name" => address.name = value,
                _ => {
                    return Err(fault(
                        "it has a parameter other than `ca`, `server_name` and `name`",
                    ));
                }
            }
        }
        Ok(address)
    }
}

/// Adds the default port where there is none; `None` for an empty host.
pub(crate) fn with_port(server: &str) -> Option<String> {
    let (host, port) = split_port(server);
    if host.is_empty() || host == "[]" {
        return None;
    }
    Some(match port {
        Some(_) => server.to_owned(),
        None => format!("{host}:{DEFAULT_PORT}"),
    })
}

/// The host of `host:port` without the brackets of an IPv6 address.
pub(crate) fn host_of(server: &str) -> &str {
    split_port(server).0.trim_start_matches('[').trim_end_matches(']')
}

fn split_port(server: &str) -> (&str, Option<&str>) {
    match server.rsplit_once(':') {
        // The colon of `[::1]` is inside the brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (server, None),
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn without_password(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => {
            let user = text[scheme + 3..at].split(':').next().unwrap_or_default();
            format!("{}{user}:***{}", &text[..scheme + 3], &text[at..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_everything_parses() {
        let address = Address::parse(
            "pointsman://ann:p%40ss@[::1]:9000/%2Forders?ca=/etc/ca.pem&server_name=broker&name=shop",
        )
        .unwrap();
        assert_eq!(
            address,
            Address {
                server: "[::1]:9000".into(),
                credentials: Some(("ann".into(), "p@ss".into())),
                vhost: "/orders".into(),
                ca_file: Some("/etc/ca.pem".into()),
                server_name: Some("broker".into()),
                name: Some("shop".into()),
            }
        );
        assert_eq!(host_of(&address.server), "::1");
    }

    #[test]
    fn what_is_left_out_takes_the_default() {
        let address = Address::parse("pointsman://broker.example").unwrap();
        assert_eq!(address.server, format!("broker.example:{DEFAULT_PORT}"));
        assert_eq!(address.vhost, "/");
        assert_eq!(address.credentials, None);
        assert_eq!(Address::parse("pointsman://broker.example/").unwrap(), address);
        assert_eq!(
            with_port("[::1]").as_deref(),
            Some(&*format!("[::1]:{DEFAULT_PORT}"))
        );
    }

    #[test]
    fn a_bad_address_is_refused_without_showing_the_password() {
        for bad in [
            "amqp://ann:secret@h",
            "pointsman://ann:secret@h?color=red",
            "pointsman://ann:secret@",
            "pointsman://ann:secret@h/%zz",
        ] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
