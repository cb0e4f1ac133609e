//! What is generated from `wit/`, and nothing else. Selectors are called synchronously on the workers, registry
//! plugins asynchronously on the control runtime; both share one set of types.

pub mod wit;

/// Calls into selector plugins and the `load` they import.
pub mod selector {
    wasmtime::component::bindgen!({ path: "wit", world: "selector-plugin" });
}

/// Calls into registry plugins and the connectors they import.
pub mod registry {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "registrar-plugin",
        // What wasmtime itself has for plugins.
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:clocks": wasmtime_wasi::p2::bindings::clocks,
            "wasi:http": wasmtime_wasi_http::p2::bindings::http,
        },
        imports: { default: async | trappable },
        exports: { default: async },
        additional_derives: [PartialEq, Eq],
    });
}
