//! What tests stand on.
#![allow(dead_code, reason = "two suites stand on it, and each uses its part")]

pub mod backend;
pub mod bind;
pub mod certs;
pub mod client;
pub mod cluster;
pub mod component;
pub mod consul;
pub mod discovery_double;
pub mod dns;
pub mod dns_between;
pub mod etcd;
pub mod fault_table;
pub mod forgetful;
pub mod gateway;
pub mod go_zero;
pub mod guest;
pub mod haproxy;
pub mod http2;
pub mod http2_origin;
pub mod network;
pub mod origin;
pub mod peer;
pub mod redis;
pub mod rpcx;
pub mod secret;
pub mod service;
pub mod session;
pub mod tampered;
pub mod tls;
pub mod tonic_echo;
pub mod traffic;
pub mod websocket;
