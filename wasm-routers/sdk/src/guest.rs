//! The glue that wit-bindgen makes of `wasm-routers/wit`, for [`crate::export!`] and [`crate::log`].

pub use bindings::exports::pointsman::router::packed::Guest;

#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated code that crosses the component boundary"
)]
pub mod bindings {
    wit_bindgen::generate!({
        world: "packed-router",
        path: "../wit",
        pub_export_macro: true,
    });
}
