//! One binary for all tests that need more than the library, the repository around the code included: an index.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test, and what helps it, says what it expects by failing"
)]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails panics")]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod admin;
mod bench;
mod build;
mod connector_etcd;
mod connector_zookeeper;
mod consul;
mod dashboard;
mod discovery;
mod dns;
mod docs;
mod doctor;
mod embedded_nacos;
mod etcd;
mod eureka;
mod examples;
mod faults;
mod foreign_text;
mod go_zero;
mod grpc;
mod grpc_tonic;
mod grpc_web;
mod health;
mod heartbeats;
mod http2;
mod http2_limits;
mod http2_out;
mod http2_out_faults;
mod http2_tools;
mod http2_websocket;
mod http_body;
mod http_drain;
mod http_endpoint_left;
mod http_forward;
mod http_grant;
mod http_login;
mod http_harness;
mod http_heads;
mod http_hedge;
mod http_leaving;
mod http_limits;
mod http_permits;
mod http_retry;
mod http_route;
mod http_smuggling;
mod http_target;
mod http_tries;
mod http_upgrade;
mod http_waits;
mod image;
mod init;
mod kubernetes;
mod kubernetes_recorded;
mod layers;
mod leaving;
mod leftovers;
mod listeners;
mod mdns;
mod nacos;
mod names;
mod offering;
mod operator;
mod overload;
mod own_faults;
mod package;
mod plugin_files;
mod plugins;
mod process;
mod prometheus;
mod proxy_protocol;
mod register;
mod registrars;
mod registrars_consul;
mod registrars_discovery;
mod registrars_eureka;
mod registrars_nacos;
mod registrars_zookeeper;
mod resolving;
mod rpcx;
mod rpcx_faults;
mod rpcx_http;
mod rpcx_tcp;
mod selectors;
mod sockets;
mod source;
mod standing;
mod swaps;
mod systemd;
mod tcp;
mod tcp_grant;
mod tls_in;
mod tls_out;
mod top;
mod tracing;
mod trials;
mod trust;
mod upgrade;
mod zookeeper;
