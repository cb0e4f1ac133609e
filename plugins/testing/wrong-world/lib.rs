//! A component that is no plugin: it exports neither a selector nor a registry.

wit_bindgen::generate!({
    inline: "
        package acme:other;

        interface greeting {
            greet: func() -> string;
        }

        world greeter {
            export greeting;
        }
    ",
});

export!(Plugin);

struct Plugin;

impl exports::acme::other::greeting::Guest for Plugin {
    fn greet() -> String {
        "hello".to_owned()
    }
}
