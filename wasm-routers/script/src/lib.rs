//! A router whose configuration is a Rhai script: an operator writes it, and nobody needs a compiler.
//!
//! `README.md` says what a script sees and answers.

mod answer;
mod engine;
mod view;

use std::collections::HashMap;

use pointsman_router::{Decision, Level, Message, Plan, Router, Target, Targets, log};
use rhai::{AST, CallFnOptions, Dynamic, Engine, Scope};

use crate::view::{MessageView, View};

/// The configured router.
pub struct Script {
    engine: Engine,
    ast: AST,
    view: View,
    targets: HashMap<String, Target>,
}

impl Router for Script {
    fn configure(config: &[u8], targets: &Targets) -> Result<(Script, Plan), String> {
        let text = std::str::from_utf8(config).map_err(|_| "the script is not UTF-8".to_owned())?;
        let engine = engine::new();
        let ast = engine
            .compile(text)
            .map_err(|error| format!("the script does not compile: {error}"))?;
        let has_route = ast
            .iter_functions()
            .any(|function| function.name == "route" && function.params.len() == 1);
        if !has_route {
            return Err("the script has no function `route(msg)`".to_owned());
        }
        let view = View::of_script(text);
        let plan = view.plan();
        let targets = targets
            .iter()
            .map(|(target, name)| (name.to_owned(), target))
            .collect();
        let router = Script {
            engine,
            ast,
            view,
            targets,
        };
        Ok((router, plan))
    }

    /// # Panics
    /// When the script fails: the message goes to quarantine, and the log says why.
    fn route(&mut self, message: &Message<'_>) -> Decision {
        let decided = self.call(self.view.read(message));
        let decided = decided.and_then(|answer| answer::decision(answer, &self.targets));
        decided.unwrap_or_else(|error| {
            log(Level::Error, &error);
            panic!("{error}");
        })
    }
}

impl Script {
    fn call(&self, message: MessageView) -> Result<Dynamic, String> {
        // Only `route` runs: statements outside of it would otherwise run again for each message.
        let options = CallFnOptions::new().eval_ast(false);
        let mut scope = Scope::new();
        let answer = self
            .engine
            .call_fn_with_options(options, &mut scope, &self.ast, "route", (message,));
        answer.map_err(|error| format!("the script failed: {error}"))
    }
}

pointsman_router::export!(Script);
