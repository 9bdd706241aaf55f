//! Access to the Kubernetes API server: clients, refusals and their reasons, and watches.
#![forbid(unsafe_code)]

mod access;
mod fault;
mod follow;
mod rights;

pub use access::{Access, Mode, in_pod};
pub use fault::Fault;
pub use follow::{LIST, RETRY, follow};
pub use rights::{Right, answer, may};
