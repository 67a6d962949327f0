//! `pointsman context`: which broker commands talk to.

use clap::Subcommand;
use serde::Serialize;

use crate::commands::{App, variable};
use crate::contexts::{Context, Contexts, LOCAL};
use crate::error::CliError;
use crate::output::Row;
use crate::target;

/// Choose which broker commands talk to.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// List all contexts; the current one is marked
    #[command(visible_alias = "ls")]
    List,
    /// Make a context the one used when none is named
    Use {
        /// Its name
        name: String,
    },
    /// Show a context without its password
    Show {
        /// Its name; left out, the current one
        name: Option<String>,
    },
}

/// The JSON form of a context; the password is never part of it.
#[derive(Debug, Serialize)]
struct ContextView {
    name: String,
    current: bool,
    server: Option<String>,
    vhost: Option<String>,
    user: Option<String>,
    has_password: bool,
    ca: Option<String>,
}

pub(crate) fn run(app: &App, command: ContextCommand) -> Result<(), CliError> {
    let path = target::contexts_path(&app.global, variable)?;
    let mut contexts = Contexts::load(&path)?;
    let current = contexts.current.clone().unwrap_or_else(|| LOCAL.to_owned());
    match command {
        ContextCommand::List => {
            let views = contexts
                .contexts
                .iter()
                .map(|(name, context)| view(name, context, &current));
            app.output.list(&views.collect::<Vec<_>>())
        }
        ContextCommand::Show { name } => {
            let name = name
                .or_else(|| app.global.context.clone())
                .unwrap_or_else(|| current.clone());
            let view = view(&name, contexts.get(&name)?, &current);
            app.output.one(&view, &view.lines())
        }
        ContextCommand::Use { name } => {
            contexts.get(&name)?;
            contexts.current = Some(name.clone());
            contexts.save(&path)?;
            let sentence = format!("commands now use the context `{name}`");
            app.output
                .done(&serde_json::json!({ "current": name }), &sentence)
        }
    }
}

fn view(name: &str, context: &Context, current: &str) -> ContextView {
    ContextView {
        name: name.to_owned(),
        current: name == current,
        server: context.server.clone(),
        vhost: context.vhost.clone(),
        user: context.user.clone(),
        has_password: context.password.is_some(),
        ca: context.ca.as_ref().map(|path| path.display().to_string()),
    }
}

impl ContextView {
    fn lines(&self) -> [(&'static str, String); 6] {
        let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        [
            ("name", self.name.clone()),
            ("server", or_none(&self.server)),
            ("vhost", or_none(&self.vhost)),
            ("user", or_none(&self.user)),
            (
                "password",
                if self.has_password { "set" } else { "none" }.to_owned(),
            ),
            ("ca", or_none(&self.ca)),
        ]
    }
}

impl Row for ContextView {
    const HEADINGS: &'static [&'static str] = &["current", "name", "server", "vhost", "user"];

    fn cells(&self) -> Vec<String> {
        vec![
            if self.current { "*" } else { "" }.to_owned(),
            self.name.clone(),
            self.server.clone().unwrap_or_default(),
            self.vhost.clone().unwrap_or_default(),
            self.user.clone().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_context_keeps_its_password_to_itself() {
        let context = Context {
            password: Some("secret".into()),
            ..Context::default()
        };
        let view = view("a", &context, "a");
        assert!(!serde_json::to_string(&view).unwrap().contains("secret"));
        assert!(!format!("{:?}", view.lines()).contains("secret"));
        assert_eq!(view.cells(), ["*", "a", "", "", ""]);
    }
}
