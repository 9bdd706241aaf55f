//! Access to the Kubernetes API server: the way to it, what it refuses and why, and watches that go on.
#![forbid(unsafe_code)]

mod access;
mod fault;
mod follow;
mod rights;

pub use access::{Access, Mode, in_pod};
pub use fault::Fault;
pub use follow::{LIST, RETRY, follow};
pub use rights::{Right, answer, may};
