//! Routing: the built-in exchange kinds and the wasmtime host of router modules.
