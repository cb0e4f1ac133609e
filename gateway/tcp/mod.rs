//! The connection path: TCP streams without HTTP. Nothing is here before the first TCP route can be configured.
