//! What the environment says.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};

/// The services with those that each calls.
const SERVICES: &[(&str, &[&str])] = &[
    ("gateway", &["orders"]),
    ("orders", &["payments", "stock"]),
    ("payments", &["db"]),
    ("stock", &["db"]),
    ("db", &[]),
];

/// The services that this one calls; `None` if there is no such service.
pub(crate) fn next(role: &str) -> Option<&'static [&'static str]> {
    SERVICES.iter().find(|(name, _)| *name == role).map(|(_, next)| *next)
}

/// The settings, each with its variable.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// `PORT`: where services listen, and where they call each other.
    pub(crate) port: u16,
    /// `WORK_US`: microseconds of CPU time for each request.
    pub(crate) work_us: u64,
    /// `ACCEPT_MS`: the time from one connection that is accepted to the next.
    pub(crate) accept_ms: u64,
    /// `BACKLOG`: connections that may wait to be accepted.
    pub(crate) backlog: u32,
    /// `BUSY`: threads that do nothing but compute.
    pub(crate) busy: usize,
    /// `LEAK_FILES`: the most files that may be open; each request opens one and leaves it open. 0 for no leak.
    pub(crate) leak_files: u64,
    /// `LEAK_MB_PER_S`: memory that is taken and never given back.
    pub(crate) leak_mb_per_s: u64,
    /// `HOLD_MB`: memory that is held from the start.
    pub(crate) hold_mb: usize,
    /// `CRASH_ON`: the number of the request that aborts the process; 0 for none.
    pub(crate) crash_on: u64,
    /// `CONFIG_FILE`: a file of lines `KEY=VALUE`, read at the start and when it changes.
    pub(crate) config_file: Option<PathBuf>,
    /// `EXIT_IF_CONFIG`: `KEY=VALUE` that the file has to have; otherwise the process exits with 1.
    pub(crate) expected: Option<(String, String)>,
    /// `WORKER=1`: a child process serves. The first process starts it again when it has ended.
    pub(crate) has_worker: bool,
    /// `RATE`: requests a second of the load.
    pub(crate) rate: u64,
    /// `TARGET`: where the load goes.
    pub(crate) target: String,
    /// `RECORDS`: `NAME=ADDRESS` with spaces between them, of the name server.
    pub(crate) records: String,
}

impl Settings {
    /// Reads the variables.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|text| !text.is_empty());
        let expected = match set("EXIT_IF_CONFIG") {
            None => None,
            Some(text) => match text.split_once('=') {
                Some((key, value)) => Some((key.to_owned(), value.to_owned())),
                None => bail!("EXIT_IF_CONFIG is `{text}`, not KEY=VALUE"),
            },
        };
        Ok(Self {
            port: number(set("PORT"), "PORT", 8080)?,
            work_us: number(set("WORK_US"), "WORK_US", 200)?,
            accept_ms: number(set("ACCEPT_MS"), "ACCEPT_MS", 0)?,
            backlog: number(set("BACKLOG"), "BACKLOG", 1024)?,
            busy: number(set("BUSY"), "BUSY", 0)?,
            leak_files: number(set("LEAK_FILES"), "LEAK_FILES", 0)?,
            leak_mb_per_s: number(set("LEAK_MB_PER_S"), "LEAK_MB_PER_S", 0)?,
            hold_mb: number(set("HOLD_MB"), "HOLD_MB", 0)?,
            crash_on: number(set("CRASH_ON"), "CRASH_ON", 0)?,
            config_file: set("CONFIG_FILE").map(PathBuf::from),
            expected,
            has_worker: set("WORKER").is_some_and(|text| text == "1"),
            rate: number(set("RATE"), "RATE", 10)?,
            target: set("TARGET").unwrap_or_else(|| "gateway".to_owned()),
            records: set("RECORDS").unwrap_or_default(),
        })
    }
}

fn number<T: FromStr>(text: Option<String>, name: &str, default: T) -> Result<T> {
    match text {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| anyhow!("{name} is `{text}`, not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_checked() -> Result<()> {
        let of = |pairs: &'static [(&str, &str)]| {
            Settings::of(move |name| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let settings =
            of(&[("LEAK_MB_PER_S", "4"), ("WORKER", "1"), ("EXIT_IF_CONFIG", "a=b=c"), ("PORT", "")])?;
        assert_eq!((settings.port, settings.leak_mb_per_s, settings.has_worker), (8080, 4, true));
        assert_eq!(settings.expected, Some(("a".to_owned(), "b=c".to_owned())));
        assert!(of(&[("PORT", "x")]).is_err() && of(&[("EXIT_IF_CONFIG", "a")]).is_err());
        Ok(())
    }

    #[test]
    fn every_service_is_called_but_the_first() {
        let called: Vec<_> = SERVICES.iter().flat_map(|(_, next)| *next).collect();
        for (name, _) in &SERVICES[1..] {
            assert!(called.contains(&name), "{name}");
        }
        assert_eq!(next("paymets"), None);
    }
}
