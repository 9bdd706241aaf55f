//! Access to the Kubernetes API server: clients, refusals and their reasons, and watches; and the metrics of the other
//! components of the control plane.
#![forbid(unsafe_code)]

mod access;
mod fault;
mod follow;
mod metrics;
mod review;
mod rights;

pub use access::{Access, Mode, in_pod};
pub use fault::Fault;
pub use follow::{LIST, RETRY, follow, follow_at_pace};
pub use metrics::{Endpoint, Metrics, Problem, Refused};
pub use review::{Permission, User, allows, user_of};
pub use rights::{Right, answer, may};
