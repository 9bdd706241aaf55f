//! Python programs that tests run against a real server: what makes a client from the description of the API, and the official
//! client of the Model Context Protocol.

/// Their packages, with the versions.
pub(crate) const PACKAGES: [&str; 2] = ["openapi-python-client==0.29.1", "mcp==2.3.0"];
/// The directory in the cache in which they are, with an interpreter of their own.
pub(crate) const DIRECTORY: &str = "python-clients-1";
/// The interpreter.
pub(crate) const PROGRAM: &str = "bin/python";
