//! Spans of the agent's own work. They are exported with the traces if those are enabled, and are no-ops
//! otherwise.
//!
//! There is one span per batch, query or file, never one per event or occurrence.

#[cfg(feature = "telemetry")]
mod exported;
#[cfg(not(feature = "telemetry"))]
mod nothing;

#[cfg(feature = "telemetry")]
pub use exported::Span;
#[cfg(not(feature = "telemetry"))]
pub use nothing::Span;

/// The instrumentation scope of the spans.
pub const SCOPE: &str = "tapio";
