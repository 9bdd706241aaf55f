//! Imports within the agent point down only: a layer may name the layers below it, and only certain modules
//! may name observers and a few crates. cargo enforces the same between the workspace's crates.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail as its assertions do")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Modules from the top down. Modules in one line may not name each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["selftest", "doctor"],
    &["agent"],
    &["pipeline", "privileges"],
    // Deliver records; enrichment finds a cgroup's owner by its path.
    &["namespaces", "slices"],
    &["cgroupfs", "filesystems", "scrape"],
    &["enrich"],
    &["config", "metrics"],
    &["detection"],
    &["kernel", "replay"],
    &["observer"],
    &["snapshot", "source", "fault"],
];

/// Crates that only these modules may name.
const PLACES: &[(&str, &[&str])] = &[
    ("aya", &["kernel"]),
    ("perf_event", &["kernel"]),
    ("kube", &["enrich"]),
    ("k8s_openapi", &["enrich"]),
    ("caps", &["privileges", "doctor"]),
];

/// An observer names only its parent, its faults, occurrences, settings and the types shared with the kernel
/// programs.
const OBSERVER_MAY: &[&str] = &["observer", "fault"];
/// The file of an observer that causes faults for the self-test.
const FAULTS: &str = "faults.rs";
const OBSERVER_NEVER: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::time::Instant",
    "std::time::System",
    "rustix",
    "aya",
    "tapio_delivery",
    "tapio_kube",
    "tapio_service::{",
    "clock::",
];

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for file in sources() {
        let rank = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
        let Some(own) = rank(&file.module) else {
            wrong.push(format!("{}: which layer is {} in?", file.path.display(), file.module));
            continue;
        };
        for named in file.modules() {
            let Some(other) = rank(&named) else { continue };
            if named != file.module && other <= own {
                wrong.push(format!("{}: names crate::{named}, which is not under it", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_have_their_place() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (name, places) in PLACES {
            if file.names(name) && !places.contains(&file.module.as_str()) {
                wrong.push(format!("{}: names {name}, whose place is {places:?}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn observers_are_pure() {
    let observers: Vec<_> = sources()
        .into_iter()
        .filter(|file| file.path.components().any(|c| c.as_os_str() == "observer"))
        .collect();
    assert!(!observers.is_empty());
    for file in observers {
        for named in file.modules() {
            assert!(OBSERVER_MAY.contains(&named.as_str()), "{}: names crate::{named}", file.path.display());
        }
        for never in OBSERVER_NEVER.iter().filter(|_| !file.path.ends_with(FAULTS)) {
            assert!(!file.text.contains(never), "{}: names {never}", file.path.display());
        }
    }
}

/// A source file without its comments and tests.
struct Source {
    path: PathBuf,
    /// The top-level module that contains it.
    module: String,
    text: String,
}

impl Source {
    /// Top-level modules of the crate that it names.
    fn modules(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        for prefix in ["crate::", "tapio_agent::"] {
            for (at, _) in self.text.match_indices(prefix) {
                // `tapio_agent` inside a longer name does not count.
                let rest = &self.text[at + prefix.len()..];
                let list = match rest.strip_prefix('{') {
                    Some(braced) => top_level(braced),
                    None => vec![word(rest).to_owned()],
                };
                named.extend(list.into_iter().filter(|name| !name.is_empty()));
            }
        }
        named
    }

    /// Whether it names a crate.
    fn names(&self, name: &str) -> bool {
        let path = format!("{name}::");
        let starts =
            |at: usize| !self.text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        self.text.match_indices(&path).any(|(at, _)| starts(at))
            || self.text.contains(&format!("use {name};"))
    }
}

/// First words of the parts of `a, b::{c, d}, e}`.
fn top_level(braced: &str) -> Vec<String> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in braced.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(word(braced[start..at].trim_start()).to_owned());
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(word(braced[start..at].trim_start()).to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "lib.rs" && name != "tests.rs") {
                let below = path.strip_prefix(&root).unwrap();
                let module = below.components().next().unwrap().as_os_str().to_string_lossy();
                let module = module.trim_end_matches(".rs").to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                let text = code.collect::<Vec<_>>().join("\n");
                files.push(Source { path, module, text });
            }
        }
    }
    assert!(files.len() > 20);
    files
}
