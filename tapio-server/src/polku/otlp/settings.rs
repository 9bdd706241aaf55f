//! Settings of the OTLP receiver.

use tapio_service::setting::{Listen, Off, SEC, Time, settings};

settings! {
    /// The receiver for OpenTelemetry: traces, metrics and logs of applications, which become signals. Certificate, authorities
    /// and tokens are those of `polku`.
    pub struct Settings {
        /// The address for OTLP/gRPC; 0.0.0.0:4317 is usual. `off`: none.
        pub listen_grpc: Off<Listen> = Off(None),
        /// The address for OTLP/HTTP, with protobuf or JSON; 0.0.0.0:4318 is usual. `off`: none.
        pub listen_http: Off<Listen> = Off(None),
        /// Length of a window, in which calls are counted and then compared with what is normal. What is normal takes 16 windows
        /// to learn.
        pub window: Time<SEC, { 60 * SEC }> = Time::of_ns(15 * SEC),
    }
}
