//! Spans of the agent's own work. They go where the traces do, if they were switched on; else they are nothing.
//!
//! One for each batch, question or file: never for an event or an occurrence.

#[cfg(feature = "telemetry")]
mod exported;
#[cfg(not(feature = "telemetry"))]
mod nothing;

#[cfg(feature = "telemetry")]
pub use exported::Span;
#[cfg(not(feature = "telemetry"))]
pub use nothing::Span;

/// Who makes them.
pub const SCOPE: &str = "tapio";
