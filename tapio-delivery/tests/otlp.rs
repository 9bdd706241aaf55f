//! The OTLP sink against a real collector and against receivers that misbehave: every id arrives with all its
//! fields, and the counters balance.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "otlp/agent.rs"]
mod agent;
#[path = "otlp/answers.rs"]
mod answers;
#[path = "sinks/certificates.rs"]
mod certificates;
#[path = "otlp/collector.rs"]
mod collector;
#[path = "otlp/fields.rs"]
mod fields;
#[path = "sinks/log.rs"]
mod log;
#[path = "../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
#[path = "otlp/receiver.rs"]
mod receiver;
#[path = "sinks/serve.rs"]
mod serve;
#[path = "sinks/agent.rs"]
mod sinks;
#[path = "otlp/tls.rs"]
mod tls;
#[path = "../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

/// The protocols, and whether they are gRPC.
const PROTOCOLS: [(&str, bool); 2] = [("grpc", true), ("http/protobuf", false)];
