//! The contexts file: brokers by name with what is needed to talk to them, as kubectl and nats have.
//!
//! It is TOML in the platform's configuration folder and holds passwords, so only its owner may read it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// The context that `serve` writes at its first start.
pub(crate) const LOCAL: &str = "local";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one used when none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All of them.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One broker and who we are there; what is absent comes from flags or the environment.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Context {
    /// `host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// The CA certificate in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<PathBuf>,
    /// The vhost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vhost: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// The user's password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
}

/// Without the password, so that no log or panic shows it.
impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("server", &self.server)
            .field("ca", &self.ca)
            .field("vhost", &self.vhost)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Where the contexts file is unless a flag or `POINTSMAN_CONTEXTS_FILE` says otherwise.
pub(crate) fn default_path() -> Result<PathBuf, CliError> {
    let folders = etcetera::choose_base_strategy().map_err(|_| {
        CliError::failed("NoHome", "there is no home folder to keep the contexts file in")
            .hint("name the file with --contexts-file or POINTSMAN_CONTEXTS_FILE")
    })?;
    Ok(folders.config_dir().join("pointsman").join("contexts.toml"))
}

impl Contexts {
    /// Reads the file; one that is not there has no contexts.
    pub(crate) fn load(path: &Path) -> Result<Contexts, CliError> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| {
                let hint = format!("correct or remove {}", path.display());
                CliError::usage(format!("the contexts file does not parse: {}", error.message())).hint(hint)
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(error) => Err(CliError::file("read the contexts file", path, &error)),
        }
    }

    /// Writes the file so that a reader sees the old or the new one, and nobody else can read it.
    pub(crate) fn save(&self, path: &Path) -> Result<(), CliError> {
        let text = toml::to_string(self)
            .map_err(|error| CliError::failed("File", format!("cannot write the contexts file: {error}")))?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|error| CliError::file("make the folder", folder, &error))?;
        // A temporary file has mode 0600 from the start, and keeps it when it is renamed.
        let mut file = tempfile::NamedTempFile::new_in(folder)
            .map_err(|error| CliError::file("write in", folder, &error))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.as_file().sync_all())
            .and_then(|()| file.persist(path).map_err(|error| error.error))
            .map_err(|error| CliError::file("write", path, &error))?;
        Ok(())
    }

    /// The context of that name, or a refusal that names the nearest one.
    pub(crate) fn get(&self, name: &str) -> Result<&Context, CliError> {
        self.contexts.get(name).ok_or_else(|| {
            let error = CliError::usage(format!("there is no context `{name}`"));
            match nearest(name, self.contexts.keys()) {
                Some(near) => error.hint(format!(
                    "did you mean `{near}`? `pointsman context list` shows all"
                )),
                None => error.hint("`pointsman context list` shows those there are"),
            }
        })
    }

    /// Adds a context under a name like `base` and returns the name: `base` itself, or `base-2` and so on while the
    /// name belongs to another broker whose CA file still exists, as that context may hold the only copy of its
    /// password.
    pub(crate) fn add(&mut self, base: &str, context: Context) -> String {
        let is_free = |name: &String| match self.contexts.get(name) {
            Some(other) => other.ca == context.ca || !other.ca.as_ref().is_some_and(|ca| ca.exists()),
            None => true,
        };
        let numbered = (2_u32..).map(|n| format!("{base}-{n}"));
        let name = std::iter::once(base.to_owned())
            .chain(numbered)
            .find(is_free)
            .unwrap_or_else(|| base.to_owned());
        self.contexts.insert(name.clone(), context);
        name
    }

    /// The context used when none is named, if there is one.
    pub(crate) fn current(&self) -> Result<Option<&Context>, CliError> {
        match &self.current {
            Some(name) => self.get(name).map(Some),
            None => Ok(self.contexts.get(LOCAL)),
        }
    }
}

/// The name that is most like `wanted`, when any is like it at all.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    names
        .map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), name))
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Contexts {
        let local = Context {
            server: Some("127.0.0.1:7654".into()),
            ..Context::default()
        };
        let far = Context {
            server: Some("far:7654".into()),
            password: Some("pw".into()),
            ..Context::default()
        };
        Contexts {
            current: None,
            contexts: [(LOCAL.to_owned(), local), ("far".to_owned(), far)].into(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new folder").join("contexts.toml");
        two().save(&path).unwrap();
        assert_eq!(Contexts::load(&path).unwrap(), two());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        two().save(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_missing_file_has_no_contexts_and_a_wrong_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("contexts.toml");
        assert_eq!(Contexts::load(&path).unwrap(), Contexts::default());
        std::fs::write(&path, "[contexts.a]\nservr = \"x\"\n").unwrap();
        let CliError::Usage(problem) = Contexts::load(&path).unwrap_err() else {
            panic!("a wrong file is a usage error");
        };
        assert!(problem.message.contains("servr"), "{}", problem.message);
    }

    #[test]
    fn the_local_context_is_used_until_another_is_chosen() {
        let mut contexts = two();
        assert_eq!(
            contexts.current().unwrap().unwrap().server.as_deref(),
            Some("127.0.0.1:7654")
        );
        contexts.current = Some("far".into());
        assert_eq!(
            contexts.current().unwrap().unwrap().server.as_deref(),
            Some("far:7654")
        );
    }

    #[test]
    fn a_mistyped_name_is_answered_with_the_nearest() {
        let CliError::Usage(problem) = two().get("loacl").unwrap_err() else {
            panic!("a wrong name is a usage error");
        };
        assert!(problem.hint.contains("`local`"), "{}", problem.hint);
    }

    #[test]
    fn a_password_is_not_in_the_debug_form() {
        assert!(!format!("{:?}", two()).contains("pw"));
    }
}
