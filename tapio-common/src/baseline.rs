//! The one baseline.
