//! axe-core, which finds what is not accessible on a page: a program in JavaScript that tests run in a browser.

/// Its package, with the version.
pub(crate) const PACKAGE: &str = "axe-core@4.14.1";
/// The directory in the cache in which it is.
pub(crate) const DIRECTORY: &str = "axe-core-4.14.1";
/// The file.
pub(crate) const FILE: &str = "axe.min.js";
