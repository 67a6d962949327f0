//! The Rhai engine: what a script may use and how much of it.

use pointsman_router::{Level, log};
use rhai::{Dynamic, Engine, EvalAltResult, ImmutableString, Map, Position};

use crate::view::MessageView;

/// Most operations of one call; about a hundred microseconds.
const OPERATIONS_MAX: u64 = 50_000;
/// Deepest call of functions by functions.
const CALL_DEPTH_MAX: usize = 24;
/// Deepest nesting of expressions, outside of functions and in them.
const EXPRESSION_DEPTH_MAX: usize = 32;
/// Longest text, in bytes.
const TEXT_MAX: usize = 256 * 1024;
/// Most elements of a list or map, with all they contain.
const ELEMENTS_MAX: usize = 10_000;
/// Most variables at one time.
const VARIABLES_MAX: usize = 256;

type Fallible<T> = Result<T, Box<EvalAltResult>>;

pub(crate) fn new() -> Engine {
    let mut engine = Engine::new();
    engine
        .set_max_operations(OPERATIONS_MAX)
        .set_max_call_levels(CALL_DEPTH_MAX)
        .set_max_expr_depths(EXPRESSION_DEPTH_MAX, EXPRESSION_DEPTH_MAX)
        .set_max_string_size(TEXT_MAX)
        .set_max_array_size(ELEMENTS_MAX)
        .set_max_map_size(ELEMENTS_MAX)
        .set_max_variables(VARIABLES_MAX)
        .disable_symbol("eval")
        .on_print(|text| log(Level::Info, text))
        .on_debug(|text, _, position| log(Level::Debug, &format!("{position}: {text}")));
    register_message(&mut engine);
    engine.register_fn("reject", |reason: ImmutableString| -> Map {
        [("reject".into(), Dynamic::from(reason))].into_iter().collect()
    });
    engine
}

fn register_message(engine: &mut Engine) {
    engine.register_type_with_name::<MessageView>("Message");
    for name in crate::view::PROPERTIES.map(|(name, _)| name) {
        engine.register_get(name, move |message: &mut MessageView| message.property(name));
    }
    engine
        .register_get("headers", |message: &mut MessageView| message.headers.clone())
        .register_get("body", |message: &mut MessageView| message.text())
        .register_get("body_len", |message: &mut MessageView| message.body_len)
        .register_get("json", |message: &mut MessageView| -> Fallible<Dynamic> {
            message
                .json()
                .map_err(|error| Box::new(EvalAltResult::ErrorRuntime(error.into(), Position::NONE)))
        });
}
